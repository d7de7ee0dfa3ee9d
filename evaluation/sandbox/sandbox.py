"""Run generated programs where they can do no harm, and judge them by what they cannot forge."""

from __future__ import annotations

import dataclasses
import os
import secrets
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from codegen_edge.errors import InvalidInputError, SandboxUnavailableError
from codegen_edge.evaluation.sandbox.job import DEFAULT_FOLDER, Job
from codegen_edge.evaluation.sandbox.limits import Limits
from codegen_edge.evaluation.sandbox.programs import CheckedProgram, FailureKind, Outcome, PrintedProgram
from codegen_edge.evaluation.sandbox.verdicts import failed, outcome_of
from codegen_edge.evaluation.sandbox.ways import PROCESS, Way, ways
from codegen_edge.evaluation.sandbox.zygote import Zygote, ZygoteError, num_threads_of_user

# The keeper's, warden's and program's own processes where the kernel counts them with the program's.
_OWN_PROCESSES = 6
_CALIBRATION_ROUNDS = 3
# Wall time of CALIBRATION on two cores of a 2.1 GHz server with nothing else to do.
REFERENCE_SECONDS = 0.1
MAX_SLOWNESS = 20.0
CALIBRATION = """
import time
started = time.perf_counter()
numbers, texts = {}, []
for i in range(150_000):
    numbers[i % 1009] = numbers.get(i % 1009, 0) + i * i
    if i % 16 == 0:
        texts.append(str(i))
sorted(texts)
print(time.perf_counter() - started)
"""
# Modules that the zygote has not loaded: one of Python's text, one of the interpreter's libraries.
_PROBE = "import os, subprocess, _decimal\n[os.getuid(), os.listdir(os.getcwd())]"


class Sandbox:
    """Runs programs one per call, from as many threads as wish to; a context manager.

    Each thread at work has a zygote of its own, which is kept for later calls.

    Args:
        limits: of every program; `calibrate` and a program's `reference_seconds` lengthen the times.
        allow_unsandboxed: use bare processes where bubblewrap does not work. They have time, memory and output limits,
            and can read and write whatever the user can.
        strict: run tests in another process than the program they check.
        preload: modules that programs are likely to import, such as "numpy"; loaded once a zygote.

    Attributes:
        limits, strict: as given.
        kind: "bubblewrap" or "process"; to be written into results.
        pids_limit: what holds a program to its number of processes: "cgroup", "rlimit" or "none".

    Raises:
        SandboxUnavailableError: bubblewrap does not work here, and `allow_unsandboxed` is False.
        InvalidInputError: a module to preload is not installed.
    """

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        allow_unsandboxed: bool = False,
        strict: bool = False,
        preload: Sequence[str] = (),
    ) -> None:
        if os.name != "posix":
            raise SandboxUnavailableError(f"generated programs can be run on Linux, not on {sys.platform}")
        self.limits = Limits() if limits is None else limits
        self.strict = strict
        self._preload = tuple(preload)
        self._slowness = 1.0
        self._lock = threading.Lock()
        self._idle: list[Zygote] = []
        self._is_closed = False
        # bwrap ends with the thread that started it: all are started by one that lives as long as the sandbox.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="sandbox")
        try:
            self._way, first = self._probe(allow_unsandboxed)
        except BaseException:
            self._starter.shutdown()
            raise
        self.kind = self._way.kind
        self.pids_limit = _pids_limit(first)
        self._idle.append(first)

    def run(self, program: CheckedProgram | PrintedProgram) -> Outcome:
        """Run one program to its end, or to the end of its limits."""
        try:
            zygote = self._take()
        except ZygoteError as exc:
            return failed(FailureKind.SANDBOX, f"the sandbox did not start: {exc}", 0.0)
        is_reusable = False
        try:
            outcome, is_reusable = self._run_in(zygote, program)
        finally:
            self._give_back(zygote, is_reusable=is_reusable)
        return outcome

    def calibrate(self) -> float:
        """Measure how much slower than the reference machine this one is now, and lengthen the times by that factor.

        Returns:
            The factor: 1 on a machine as fast as the reference or faster, at most MAX_SLOWNESS.
        """
        self._slowness = MAX_SLOWNESS  # the calibration itself needs its time
        seconds = []
        for _ in range(_CALIBRATION_ROUNDS):
            outcome = self.run(PrintedProgram(program=CALIBRATION))
            if isinstance(outcome.value, float):
                seconds.append(outcome.value)
        slowness = statistics.median(seconds) / REFERENCE_SECONDS if seconds else MAX_SLOWNESS
        self._slowness = min(max(slowness, 1.0), MAX_SLOWNESS)
        return self._slowness

    def close(self) -> None:
        """End every zygote; programs that still run end as if they had ended themselves."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for zygote in idle:
            zygote.stop()
        self._starter.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run_in(self, zygote: Zygote, program: CheckedProgram | PrintedProgram) -> tuple[Outcome, bool]:
        """The outcome, and whether the zygote may run another program."""
        nonce = secrets.token_hex(16)
        order: dict[str, object] = {
            "nonce": nonce,
            "tests": program.tests if isinstance(program, CheckedProgram) else "",
        }
        with ExitStack() as stack:
            folder = DEFAULT_FOLDER
            if self.kind == PROCESS:
                made = tempfile.TemporaryDirectory(prefix="codegen-edge-program-", ignore_cleanup_errors=True)
                folder = stack.enter_context(made)
            job = self._job(zygote, program, folder)
            kills = zygote.group.num_memory_kills if zygote.group else 0
            started = time.monotonic()
            try:
                said = zygote.run(job, order)
            except ZygoteError as exc:
                seconds = time.monotonic() - started
                if seconds >= job.wall_seconds:
                    return failed(FailureKind.TIMEOUT, f"still running after {job.wall_seconds:.1f} s", seconds), False
                if zygote.group and zygote.group.num_memory_kills > kills:
                    return failed(FailureKind.MEMORY, "killed with its sandbox: too much memory", seconds), False
                return failed(FailureKind.EXIT, f"the sandbox ended with the program: {exc}", seconds), False
            was_full = zygote.group is not None and zygote.group.num_memory_kills > kills
            outcome = outcome_of(program, job, nonce, said, memory_was_full=was_full and said["end"] != "timeout")
            return outcome, not self._way.is_single_use

    def _job(self, zygote: Zygote, program: CheckedProgram | PrintedProgram, folder: str) -> Job:
        is_checked = isinstance(program, CheckedProgram)
        reference_seconds = program.reference_seconds if isinstance(program, CheckedProgram) else None
        limits = dataclasses.asdict(self.limits.scaled(self._slowness).for_reference(reference_seconds))
        limits["processes"] += _OWN_PROCESSES
        if self.kind == PROCESS:
            limits["processes"] += num_threads_of_user()
        return Job(
            program=program.program,
            entry_point=program.entry_point if isinstance(program, CheckedProgram) else None,
            is_strict=self.strict and is_checked,
            folder=folder,
            uid=zygote.uid,
            **limits,
        )

    def _take(self) -> Zygote:
        with self._lock:
            if self._is_closed:
                raise InvalidInputError("the sandbox is closed")
            if self._idle:
                return self._idle.pop()
        return self._start(self._way)

    def _give_back(self, zygote: Zygote, *, is_reusable: bool) -> None:
        with self._lock:
            if is_reusable and not self._is_closed:
                self._idle.append(zygote)
                return
        zygote.stop()

    def _start(self, way: Way) -> Zygote:
        return self._starter.submit(Zygote, way, preload=self._preload, limits=self.limits).result()

    def _probe(self, allow_unsandboxed: bool) -> tuple[Way, Zygote]:
        """Find the first way that works by running a program in it."""
        reasons = []
        for way in ways():
            try:
                return way, self._proved(way)
            except ZygoteError as exc:
                reasons.append(str(exc))
        self._check_preload(reasons)
        if allow_unsandboxed:
            try:
                return Way(kind=PROCESS), self._start(Way(kind=PROCESS))
            except ZygoteError as exc:
                self._check_preload([str(exc)])
                raise SandboxUnavailableError(f"no process can be started to run programs in: {exc}") from exc
        raise SandboxUnavailableError(
            f"generated programs are run with bubblewrap, which does not work here ({reasons[0]}). Install bubblewrap, "
            "allow user namespaces, or pass allow_unsandboxed=True to run them as bare processes of this user",
            hint="or pass --allow-unsandboxed",
        )

    def _check_preload(self, reasons: Sequence[str]) -> None:
        for reason in reasons:
            if reason.startswith("preload: "):
                raise InvalidInputError(reason)

    def _proved(self, way: Way) -> Zygote:
        zygote = self._start(way)
        self._way, self.kind = way, way.kind
        outcome, is_reusable = self._run_in(zygote, PrintedProgram(program=_PROBE))
        value = outcome.value
        if not outcome.passed or not isinstance(value, list) or value[0] in (0, None) or value[1]:
            zygote.stop()
            raise ZygoteError(outcome.message or f"a program sees {value}")
        if is_reusable:
            return zygote
        zygote.stop()
        return self._start(way)


def _pids_limit(zygote: Zygote) -> str:
    """What holds a program to its number of processes: "cgroup", "rlimit" or "none"."""
    if zygote.group is not None and zygote.group.limits_processes:
        return "cgroup"
    return "rlimit" if zygote.way.is_counted_by_kernel else "none"
