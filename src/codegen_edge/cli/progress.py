"""A workflow's progress: a bar on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

    from codegen_edge.workflows.progress import OnStage

_SECONDS_OF_A_LINE = 10.0  # a log stays short, and whoever waits sees that something happens


@contextmanager
def shown_progress(first: str) -> Iterator[OnStage]:
    """Show a workflow's stages on stderr: words, and a bar where there is an amount of bytes."""
    from rich.progress import DownloadColumn

    with _shown(first, DownloadColumn, "bytes") as on_stage:
        yield on_stage


@contextmanager
def shown_counts(first: str) -> Iterator[OnStage]:
    """Show stages that count things: a bar, how many of how many, and the time that is left."""
    from rich.progress import MofNCompleteColumn

    with _shown(first, MofNCompleteColumn, "count") as on_stage:
        yield on_stage


@contextmanager
def _shown(first: str, amount: type[ProgressColumn], kind: str) -> Iterator[OnStage]:
    from codegen_edge.cli.console import stderr

    if not stderr.is_terminal:
        with _lines(first, kind) as on_stage:
            yield on_stage
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), amount(), TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True) as progress:
        task = progress.add_task(first, total=None)
        current = first

        def on_stage(stage: str, done: int = 0, total: int | None = None) -> None:
            nonlocal current, task
            if stage != current:  # a stage's pace says nothing of the next one's
                progress.remove_task(task)
                current, task = stage, progress.add_task(stage, total=total)
            progress.update(task, completed=done, total=total)

        yield on_stage


@contextmanager
def _lines(first: str, kind: str) -> Iterator[OnStage]:
    """Write where the work is into a log, every _SECONDS_OF_A_LINE."""
    state: dict[str, Any] = {"stage": first, "done": 0, "total": None}
    has_ended = threading.Event()

    def write() -> None:
        while not has_ended.wait(_SECONDS_OF_A_LINE):
            click.echo(_line(kind, **state), err=True)

    def on_stage(stage: str, done: int = 0, total: int | None = None) -> None:
        state.update(stage=stage, done=done, total=total)

    writer = threading.Thread(target=write, name="progress", daemon=True)
    writer.start()
    try:
        yield on_stage
    finally:
        has_ended.set()
        writer.join()


def _line(kind: str, *, stage: str, done: int, total: int | None) -> str:
    if total is None:
        return f"{stage} …"
    if kind == "bytes":
        return f"{stage}: {done / 1e6:.0f} of {total / 1e6:.0f} MB"
    return f"{stage}: {done} of {total}"
