"""Drafts that are looked up in the row's own text."""

from __future__ import annotations

from collections.abc import Sequence

from codegen_edge.errors import InvalidInputError
from codegen_edge.generation.sampling import TokenChooser

_FOLLOWED_TOKENS = 20  # behind the last lookup: a step of drafts that were accepted, and a few
_REPLACED_TOKENS = 2  # of those; where more differ the run is lost


class PromptLookup:
    """Drafts that what followed the last tokens where they occurred before follows again.

    A. Saxena, "Prompt Lookup Decoding" (2023). Made for edits, where the answer repeats much of the prompt. A run that
    was followed and is lost goes on to be followed for a few tokens, in the same distance: an edit that puts one token
    in the place of another costs one plain step then, not as many as a lookup needs tokens.

    Args:
        longest: tokens that are looked up at most.
        shortest: and at least.
    """

    is_free = True
    draft_seconds = 0.0

    def __init__(self, *, longest: int = 4, shortest: int = 2) -> None:
        if not 1 <= shortest <= longest:
            raise InvalidInputError(f"a lookup needs 1 <= shortest <= longest, got {shortest} and {longest}")
        self._lengths = range(longest, shortest - 1, -1)
        self._seen: list[int] = []
        self._ends: dict[tuple[int, ...], int] = {}  # where each run of tokens ended last, its successor known
        self._followed: tuple[int, int] | None = None  # the last run: where it was found, and where it went on

    def interrupt(self) -> None:
        """Nothing here takes long."""

    def draft(self, ids: Sequence[int], count: int, chooser: TokenChooser) -> list[int]:
        """What followed the longest run of last tokens that occurred before."""
        self._learn(ids)
        for length in self._lengths:
            end = self._ends.get(tuple(ids[-length:])) if len(ids) > length else None
            if end is not None:
                self._followed = end, len(ids)
                return list(ids[end : end + count])
        if self._followed is None:
            return []
        end, start = self._followed
        came = len(ids) - start  # tokens since
        if came > _FOLLOWED_TOKENS:
            return []
        differing = sum(one != other for one, other in zip(ids[end : end + came], ids[start:], strict=True))
        return list(ids[end + came : end + came + count]) if differing <= _REPLACED_TOKENS else []

    def _learn(self, ids: Sequence[int]) -> None:
        if list(ids[: len(self._seen)]) != self._seen:  # another row, or a rewound one
            self._seen, self._ends, self._followed = [], {}, None
        for end in range(len(self._seen), len(ids)):
            # The run that ends before `end` has a successor now.
            for length in self._lengths:
                if end >= length:
                    self._ends[tuple(ids[end - length : end])] = end
        self._seen = list(ids)
