"""What a server's scheduler needs of a batch with a fixed number of slots."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from codegen_edge.errors import InvalidInputError
from codegen_edge.generation.cancel import CancelToken
from codegen_edge.generation.request import Request
from codegen_edge.generation.row import TokenEvent
from codegen_edge.runtimes.runtime import KVCache


@dataclass(frozen=True, slots=True)
class Prefix:
    """Keys and values of a prompt's beginning.

    Attributes:
        cache: of one row; it stays as it is.
        length: the first tokens of that row that count.
    """

    cache: KVCache
    length: int


class SlotBatch(Protocol):
    """What a server's scheduler needs of a batch."""

    @property
    def rows(self) -> list[int]:
        """Numbers of the rows that go on."""

    @property
    def free_slots(self) -> int | None:
        """Rows that may be admitted now."""

    def admit(
        self,
        request: Request,
        *,
        prefix: Prefix | None = None,
        first_sample: int = 0,
        cancel: CancelToken | None = None,
    ) -> list[int]:
        """Take a request of one prompt; `step` reads it.

        Args:
            request: its `params.n` rows share the prefill.
            prefix: what is known of the prompt's beginning, less than all of it.
            first_sample: which of the prompt's samples the first row is.
            cancel: ends these rows alone.

        Returns:
            The numbers of the rows.

        Raises:
            InvalidInputError: no free slot, or several prompts.
            ContextLengthError: the prompt is longer than a row may be.
        """

    def step(self, seconds: float = 0.1) -> Iterator[TokenEvent]:
        """Give every row that decodes its next token, and read on at prompts, the oldest first.

        Args:
            seconds: about how long the step may take where there are prompts to read.

        Raises:
            CancelledError, BackendError: the batch is not to be used further.
        """

    def finish(self, number: int) -> None:
        """End a row."""


def require_one_prompt(request: Request) -> None:
    """Raise InvalidInputError for a request of several prompts."""
    if len(request.prompts) != 1:
        raise InvalidInputError(f"a slot batch takes one prompt at a time, got {len(request.prompts)}")
