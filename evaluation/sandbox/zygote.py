"""The supervisor's end of one zygote: started, asked to run programs one at a time, and ended."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from codegen_edge.evaluation.sandbox.cgroups import ControlGroup, make_group
from codegen_edge.evaluation.sandbox.frames import FrameError, receive, send
from codegen_edge.evaluation.sandbox.job import MAX_MESSAGE_BYTES, Job
from codegen_edge.evaluation.sandbox.limits import Limits
from codegen_edge.evaluation.sandbox.ways import ENVIRONMENT, Way

START_SECONDS = 60.0  # importing pandas from a cold disk takes many
KEEPER_SECONDS = 0.8  # within these after its time a program has been ended, or the whole zygote is


class ZygoteError(Exception):
    """The zygote did not start, has ended, or does not answer."""


class Zygote:
    """A running zygote.

    Args:
        way: how to start it.
        preload: modules that it imports beforehand.
        limits: of its programs, for what holds for the whole of it.

    Raises:
        ZygoteError: it does not start.
    """

    def __init__(self, way: Way, *, preload: Sequence[str], limits: Limits) -> None:
        self.way = way
        self.uid = way.user_id()
        self.group: ControlGroup | None = None
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the zygote
        self._control, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    way.command(control=theirs.fileno(), preload=preload, limits=limits),
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._errors,
                    env=ENVIRONMENT,
                    cwd="/",
                    start_new_session=True,
                )
        except OSError as exc:
            self._control.close()
            self._errors.close()
            raise ZygoteError(str(exc)) from exc
        try:
            said = self._hear(START_SECONDS)
            if said["end"] != "ready":
                raise ZygoteError(f"preload: {said['message']}")
            self._enter_group(limits)
        except BaseException:
            self.stop()
            raise

    def run(self, job: Job, order: dict[str, object]) -> dict[str, object]:
        """Run a program to its end.

        Args:
            job: the program and its limits.
            order: the tests and the nonce.

        Returns:
            What the keeper says.

        Raises:
            ZygoteError: the zygote has ended, or did not end the program in time; it must be stopped.
        """
        try:
            send(self._control.fileno(), dataclasses.asdict(job))
            send(self._control.fileno(), order)
        except OSError as exc:
            raise ZygoteError("the zygote has ended") from exc
        said = self._hear(START_SECONDS)
        if said["end"] == "started":
            said = self._hear(job.wall_seconds + KEEPER_SECONDS)
        if said["end"] == "broken":
            raise ZygoteError(str(said["message"]))
        return said

    def stop(self) -> None:
        """End it and everything in it."""
        self._control.close()
        if self.group is not None:
            self.group.end()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        self._errors.close()

    def _hear(self, seconds: float) -> dict[str, object]:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        if not poll.poll(seconds * 1000):
            raise ZygoteError(f"the zygote said nothing for {seconds:.1f} s")
        try:
            return receive(self._control.fileno(), MAX_MESSAGE_BYTES)
        except FrameError as exc:
            raise ZygoteError(self._last_words() or str(exc)) from exc

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        self._errors.seek(0)
        lines = self._errors.read(1 << 16).decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else ""

    def _enter_group(self, limits: Limits) -> None:
        group = make_group(limits)
        if group is None:
            return
        try:
            group.add(_tree(self._process.pid))
        except OSError:
            group.end()
            return
        self.group = group


def _tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            found += map(int, Path(f"/proc/{each}/task/{each}/children").read_text().split())
    return found


def num_threads_of_user() -> int:
    """Processes and threads of the current user on this machine: RLIMIT_NPROC counts them too without a namespace."""
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if process.stat().st_uid == os.getuid():
                count += len(list((process / "task").iterdir()))
    return count
