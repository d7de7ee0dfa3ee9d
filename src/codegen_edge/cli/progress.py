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
