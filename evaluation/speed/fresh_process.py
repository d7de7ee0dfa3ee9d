"""Measuring in a process of its own, which has loaded nothing before and leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

from codegen_edge import errors
from codegen_edge.bundle import Bundle
from codegen_edge.errors import BackendError, CodegenEdgeError
from codegen_edge.evaluation.speed.kinds import ProductKind
from codegen_edge.evaluation.speed.measurement import MeasuredLimits, Measurement
from codegen_edge.evaluation.speed.settings import SpeedSettings

PROGRAM = (sys.executable, "-m", "codegen_edge.evaluation.speed.child")
_MOST_STDERR = 300  # characters of a process's last words that an error repeats


def task_of(bundle: Bundle, settings: SpeedSettings, kinds: Sequence[ProductKind] | None) -> dict[str, Any]:
    """What a process is asked to measure.

    Args:
        bundle: what it opens.
        settings: the workload.
        kinds: of products to measure the limits of, and of reading; None measures no limit.
    """
    options = {"threads": settings.threads, "exact_steps": settings.exact_steps or None}
    return {
        "bundle": str(bundle.path.absolute()),
        "runtime": settings.runtime,
        "options": {name: value for name, value in options.items() if value is not None},
        "prompt_tokens": settings.prompt_tokens,
        "new_tokens": settings.new_tokens,
        "batch": settings.batch,
        "kinds": None if kinds is None else [kind.to_dict() for kind in kinds],
    }


def measure_once(task: dict[str, Any]) -> Measurement:
    """Start a process, let it measure, and wait for its end.

    Args:
        task: of `task_of`.

    Raises:
        CodegenEdgeError: whichever the process raised.
        BackendError: the process ended without a result.
    """
    cold_start_s, pid = None, 0
    with tempfile.TemporaryFile() as words, _process(task, words) as (process, started_at):
        for line in process.stdout or ():
            fields = json.loads(line)
            event = fields.pop("event")
            if event == "started":
                pid = fields["pid"]
            elif event == "first token" and cold_start_s is None:
                cold_start_s = time.perf_counter() - started_at
            elif event == "error":
                raise _error(**fields)
            elif event == "measured":
                assert cold_start_s is not None
                limits = fields.pop("limits")
                fields["steps_s"] = tuple(fields["steps_s"])
                return Measurement(
                    **fields,
                    pid=pid,
                    cold_start_s=cold_start_s,
                    limits=None if limits is None else MeasuredLimits(**limits),
                )
        raise BackendError(_ending(task, process.wait(), words))


@contextmanager
def _process(task: dict[str, Any], words: IO[bytes]) -> Iterator[tuple[subprocess.Popen[str], float]]:
    """A process and when it was started; it has ended when the context has, however that ends."""
    started_at = time.perf_counter()
    process = subprocess.Popen(
        [*PROGRAM, json.dumps(task)],
        stdin=subprocess.PIPE,  # never written to: its end tells the process that nobody waits any more
        stdout=subprocess.PIPE,
        stderr=words,
        text=True,
        encoding="utf-8",
        start_new_session=True,  # Ctrl-C reaches this process alone, which ends the other one
    )
    try:
        yield process, started_at
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def _error(kind: str, message: str, hint: str) -> CodegenEdgeError:
    known = getattr(errors, kind, None)
    is_ours = isinstance(known, type) and issubclass(known, CodegenEdgeError)
    return known(message, hint=hint) if is_ours and known is not None else BackendError(message, hint=hint)


def _ending(task: dict[str, Any], code: int, words: IO[bytes]) -> str:
    words.seek(0)
    lines = words.read().decode(errors="replace").strip().splitlines()
    last = f": {lines[-1][:_MOST_STDERR]}" if lines else ""
    how = f"was ended by signal {-code}; was the memory enough?" if code < 0 else f"ended with exit code {code}"
    return f"the process that measured {task['bundle']} {how}{last}"
