"""What the generation loop needs of a rule about the text, whichever library stands behind it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@runtime_checkable
class Constraint(Protocol):
    """Says which tokens may follow those that it has taken.

    Every row follows its own fork, so one constraint may be given to any number of generations at once. The end of
    text and stop ids are not the constraint's matter: the loop allows them where `is_accepting`.
    """

    @property
    def is_accepting(self) -> bool:
        """Whether the text may end here."""

    def mask(self) -> NDArray[np.bool_]:
        """[V'] which ids may come next; ids from V' on may not.

        Raises:
            InvalidInputError: the rule has become too complex to follow.
        """

    def advance(self, token_id: int) -> None:
        """Take a token.

        Raises:
            InvalidInputError: it may not come next (the constraint stays as it was), or the rule is too complex.
        """

    def rollback(self, num_tokens: int) -> None:
        """Forget the last tokens."""

    def fork(self) -> Constraint:
        """One that goes on from here by itself."""
