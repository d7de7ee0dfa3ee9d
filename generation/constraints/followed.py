"""A constraint in step with the tokens of one row, wherever they go: drafts are tried and taken back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from codegen_edge.errors import InvalidInputError
from codegen_edge.generation.constraints.protocol import Constraint


class FollowedConstraint:
    """Answers for any new tokens of a row: the constraint is rolled back to what they share with the last ones.

    Args:
        constraint: at its beginning; it stays there.
        prompt_length: tokens of the prompt, which the constraint does not see.
        end_ids: the end of text and the stop ids.
    """

    def __init__(self, constraint: Constraint, prompt_length: int, end_ids: Sequence[int]) -> None:
        self._constraint = constraint.fork()
        self._prompt_length = prompt_length
        self._end_ids = np.array(sorted(set(end_ids)), np.int64)
        self._taken: list[int] = []
        self._mask: NDArray[np.bool_] | None = None  # after the tokens taken

    def allowed(self, ids: Sequence[int], size: int) -> NDArray[np.bool_]:
        """[size] which ids may follow `ids` (prompt and new tokens); those that end a row only where the text may end.

        Raises:
            InvalidInputError: nothing may follow, or the rule has become too complex to follow.
        """
        self._follow(ids)
        mask = self._text_mask()[:size]
        allowed = np.zeros(size, np.bool_)
        allowed[: len(mask)] = mask
        if self._constraint.is_accepting:
            allowed[self._end_ids[self._end_ids < size]] = True
        if not allowed.any():
            raise InvalidInputError(
                f"the constraint allows no token at step {len(self._taken)}: none goes on, and the text may not end"
            )
        return allowed

    def is_complete(self, ids: Sequence[int]) -> bool:
        """Whether the new tokens are a whole text that nothing can be added to."""
        self._follow(ids)
        return self._constraint.is_accepting and not self._text_mask().any()

    def _text_mask(self) -> NDArray[np.bool_]:
        """[V'] which ids bring further text."""
        if self._mask is None:
            self._mask = self._constraint.mask().copy()
            self._mask[self._end_ids[self._end_ids < len(self._mask)]] = False
        return self._mask

    def _follow(self, ids: Sequence[int]) -> None:
        new = list(ids[self._prompt_length :])
        shared = len(self._taken)
        if new[:shared] != self._taken:
            pairs = enumerate(zip(self._taken, new, strict=False))
            shared = next((place for place, (one, other) in pairs if one != other), min(shared, len(new)))
            self._constraint.rollback(len(self._taken) - shared)
            del self._taken[shared:]
            self._mask = None
        for token_id in new[shared:]:
            self._constraint.advance(token_id)
            self._taken.append(token_id)
            self._mask = None
