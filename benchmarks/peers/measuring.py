"""One system, once, in a fresh process: cold start, memory, and each workload's first token and steps."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.system import System
from benchmarks.peers.worker_process import WorkerDiedError, WorkerError, WorkerProcess
from benchmarks.peers.workers.protocol import TokenIds
from benchmarks.peers.workload import Workload

_WARM_TOKENS = 4
_NEIGHBOUR = "while True: pass"
_NEIGHBOUR_HEAD_START_S = 0.3

LOAD, COLD_START, PEAK_RSS = "load_s", "cold_start_s", "peak_rss_bytes"


def first_token(workload: Workload) -> str:
    """Name of the figure: seconds from the call to the first token, warm."""
    return f"{workload.name} first_token_s"


def step(workload: Workload) -> str:
    """Name of the figure: seconds of a decode step, on average."""
    return f"{workload.name} step_s"


def figures_of(workloads: Sequence[Workload]) -> list[str]:
    """All names of figures of a run; the smaller the better."""
    return [LOAD, COLD_START, PEAK_RSS, *(figure(each) for each in workloads for figure in (first_token, step))]


@dataclass(slots=True)
class Outcome:
    """What one process gave.

    Attributes:
        figures: by name; without those that failed.
        token_ids: by workload.
        versions: of the packages that took part.
        errors: by workload, or "" for all of it, why there is nothing.
    """

    figures: dict[str, float] = field(default_factory=dict)
    token_ids: dict[str, TokenIds] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


def measure(
    system: System, command: Sequence[str], model: Path, workloads: Sequence[Workload], *, threads: int, limit_s: float
) -> Outcome:
    """Start a worker, let it run every workload in turn, and end it.

    Args:
        system: what is measured.
        command: that starts its worker.
        model: what it opens.
        workloads: the first one's prompt gives the cold start; memory is read after it.
        threads: CPU threads.
        limit_s: the longest that one answer may take.
    """
    outcome = Outcome()
    try:
        with WorkerProcess(command, limit_s=limit_s, threads=threads) as worker:
            worker.started()
            options = {"precision": system.precision, "threads": threads, **system.options}
            opened = worker.ask("open", model=str(model), **options)
            outcome.versions = opened["versions"]
            outcome.figures[LOAD] = time.perf_counter() - worker.started_at
            worker.ask("generate", prompts=workloads[0].prompts("cold"), new_tokens=1)
            outcome.figures[COLD_START] = time.perf_counter() - worker.started_at
            for workload in workloads:
                _run(worker, workload, outcome)
    except WorkerError as exc:
        outcome.errors.setdefault("", str(exc))
    return outcome


def _run(worker: WorkerProcess, workload: Workload, outcome: Outcome) -> None:
    """One workload; what fails in it ends it alone, unless the worker is no more."""
    try:
        if workload.is_warmed:
            worker.ask("generate", prompts=workload.prompts("warm"), new_tokens=min(_WARM_TOKENS, workload.new_tokens))
        with busy_neighbours(workload.neighbours):
            answer = worker.ask("generate", prompts=workload.prompts(), new_tokens=workload.new_tokens)
    except WorkerDiedError:
        raise
    except WorkerError as exc:
        outcome.errors[workload.name] = str(exc)
        return
    steps = answer["steps_s"]
    if len(steps) != workload.new_tokens - 1:
        outcome.errors[workload.name] = f"{len(steps) + 1} tokens came, not {workload.new_tokens}"
        return
    outcome.token_ids[workload.name] = answer["token_ids"]
    outcome.figures[first_token(workload)] = answer["first_token_s"]
    outcome.figures[step(workload)] = sum(steps) / len(steps)
    if PEAK_RSS not in outcome.figures and answer["peak_rss_bytes"]:
        outcome.figures[PEAK_RSS] = answer["peak_rss_bytes"]


@contextmanager
def busy_neighbours(count: int) -> Iterator[None]:
    """Processes that burn a core each while the context lasts."""
    neighbours: list[subprocess.Popen[Any]] = []
    try:
        for _ in range(count):
            neighbours.append(subprocess.Popen([sys.executable, "-S", "-c", _NEIGHBOUR], start_new_session=True))
        if count:
            time.sleep(_NEIGHBOUR_HEAD_START_S)
        yield
    finally:
        for each in neighbours:
            each.kill()
            each.wait()
