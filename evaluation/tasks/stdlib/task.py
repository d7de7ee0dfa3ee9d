"""Held-out lines of the standard library as a task for the runner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from codegen_edge.checkpoints.corpora import load_corpus
from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.tasks.stdlib.items import stdlib_items
from codegen_edge.evaluation.tasks.task import Item, content_hash


class StdlibTask:
    """100 ends of lines, compared with what really stands there.

    They are drawn from the corpus that ships with us, which the shipped checkpoint was not trained on.

    Args:
        limit: how many of them, of all kinds; None for all.

    Raises:
        InvalidInputError: the limit is below 1.
        IntegrityError: the corpus is missing or altered.
    """

    name = "stdlib"
    rate_name = "exact match"

    def __init__(self, limit: int | None = None) -> None:
        if limit is not None and limit < 1:
            raise InvalidInputError(f"limit must be at least 1, got {limit}")
        self._items = stdlib_items(load_corpus("held-out"))[:limit]

    def items(self) -> list[Item]:
        """Names, brackets and returned values, mixed."""
        return list(self._items)

    def generation_fields(self) -> Mapping[str, Any]:
        """A completion ends with its line."""
        return {"stop": ("\n",)}

    def data_hash(self) -> str:
        """Of the items."""
        return content_hash([asdict(item) for item in self._items])

    def matches(self, item: Item, completions: Sequence[str]) -> bool:
        """Whether the completion is the rest of the line; blanks around it do not count."""
        (completion,) = completions
        return completion.strip() == item.reference
