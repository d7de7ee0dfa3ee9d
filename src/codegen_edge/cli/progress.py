"""A workflow's progress in the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codegen_edge.workflows.progress import OnStage


@contextmanager
def shown_progress(first: str) -> Iterator[OnStage]:
    """Show a workflow's stages on stderr while the context lasts: words, and a bar where there is an amount."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from codegen_edge.cli.console import stderr

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True) as progress:
        task = progress.add_task(first, total=None)

        def on_stage(stage: str, done: int = 0, total: int | None = None) -> None:
            progress.update(task, description=stage, completed=done, total=total)

        yield on_stage


@contextmanager
def shown_counts(first: str) -> Iterator[OnStage]:
    """Show stages that count things: a bar, how many of how many, and the time that is left."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from codegen_edge.cli.console import stderr

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
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
