"""What proposes tokens, and what all that propose share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from codegen_edge.generation.sampling import TokenChooser


class Drafter(Protocol):
    """Drafts tokens."""

    @property
    def is_free(self) -> bool:
        """Whether a draft costs next to nothing, so that it may be compared with what is chosen without being fed."""

    @property
    def draft_seconds(self) -> float:
        """What a draft costs, without what reading new text costs."""

    def interrupt(self) -> None:
        """Make a draft in flight raise CancelledError soon. Callable from any thread."""

    def draft(self, ids: Sequence[int], count: int, chooser: TokenChooser) -> list[int]:
        """Up to `count` drafts of what `chooser` will choose after `ids`."""


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    length = min(len(first), len(second))
    different = np.flatnonzero(np.asarray(first[:length]) != np.asarray(second[:length]))
    return int(different[0]) if len(different) else length
