"""A constraint on llguidance, which follows a grammar token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from codegen_edge.errors import InvalidInputError
from codegen_edge.generation.constraints.trial import require_no_error

if TYPE_CHECKING:
    from llguidance import LLMatcher


class GrammarConstraint:
    """The texts of a grammar; see `Constraint`. Made by `compile_grammar`.

    Where the grammar leaves one text only, its tokens are those that the tokenizer would make of it.

    Args:
        matcher: of the grammar, without an error.
        vocab_size: ids of the tokenizer.
    """

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size

    @property
    def is_accepting(self) -> bool:
        """Whether the text may end here."""
        accepting = self._matcher.is_accepting()
        self._require_no_error()
        return accepting

    def mask(self) -> NDArray[np.bool_]:
        """[tokenizer's ids] which may come next; see `Constraint`."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._require_no_error()
        return np.unpackbits(bits, count=self._vocab_size, bitorder="little").view(np.bool_)

    def advance(self, token_id: int) -> None:
        """Take a token; see `Constraint`."""
        taken = self._matcher.try_consume_tokens([token_id]) if token_id < self._vocab_size else 0
        self._require_no_error()
        if taken != 1:
            raise InvalidInputError(f"the grammar does not allow token {token_id} here")

    def rollback(self, num_tokens: int) -> None:
        """Forget the last tokens."""
        self._matcher.rollback(num_tokens)
        self._require_no_error()

    def fork(self) -> GrammarConstraint:
        """One that goes on from here by itself."""
        return GrammarConstraint(self._matcher.deep_copy(), self._vocab_size)

    def _require_no_error(self) -> None:
        try:
            require_no_error(self._matcher)
        except ValueError as exc:
            raise InvalidInputError(f"the grammar cannot be followed further: {exc}") from exc
