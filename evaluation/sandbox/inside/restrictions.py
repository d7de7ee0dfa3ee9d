"""Resource limits of a program's process; its children inherit them and cannot raise them."""

from __future__ import annotations

import contextlib
import math
import resource

from codegen_edge.evaluation.sandbox.job import Job


def restrict(job: Job) -> None:
    """Apply `job`'s limits to this process."""
    cpu_seconds = math.ceil(job.cpu_seconds)
    # A program may ignore the signal of the soft limit; one second later the kernel ends it.
    _limit(resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + 1)
    _limit(resource.RLIMIT_AS, job.memory_bytes)
    _limit(resource.RLIMIT_FSIZE, job.file_bytes)
    _limit(resource.RLIMIT_NOFILE, job.open_files)
    _limit(resource.RLIMIT_STACK, job.stack_bytes)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NPROC, job.processes)
    if hasattr(resource, "RLIMIT_MSGQUEUE"):
        _limit(resource.RLIMIT_MSGQUEUE, 0)


def _limit(which: int, soft: int, hard: int | None = None) -> None:
    _, allowed = resource.getrlimit(which)
    hard = soft if hard is None else hard
    if allowed != resource.RLIM_INFINITY:
        soft, hard = min(soft, allowed), min(hard, allowed)
    with contextlib.suppress(OSError, ValueError):  # macOS refuses some, RLIMIT_AS among them
        resource.setrlimit(which, (soft, hard))
