"""How a workflow reports what it is doing."""

from __future__ import annotations

from collections.abc import Callable

OnStage = Callable[[str, int, int | None], None]
"""Called with what is being done, in words, and how much of it is done and in all; None where that is unknown."""


def silent(stage: str, done: int = 0, total: int | None = None) -> None:
    """Report nothing."""
