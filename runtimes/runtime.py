"""The seam between the generation loop and whatever computes logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from codegen_edge.bundle.model_config import ModelConfig

TokenIds = NDArray[np.int64]
Logits = NDArray[np.float32]


class KVCache(Protocol):
    """The past of a batch of sequences, as one runtime keeps it. Opaque above the seam but for these names."""

    @property
    def capacity(self) -> int:
        """The most tokens a row can hold (C)."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[B] int64, tokens that each row holds now (P of the row)."""

    def rewind(self, row: int, length: int) -> None:
        """Forget what row `row` holds beyond its first `length` tokens.

        Raises:
            InvalidInputError: the row holds fewer.
        """

    def select(self, rows: Sequence[int], shared: int = 0) -> None:
        """Make the batch `rows` of what it was: some leave, change places or are repeated.

        Args:
            rows: in any order; none leaves an empty batch, whose memory stays.
            shared: the first tokens that all rows are known to have in common; they need not be moved.
        """

    def join(self, other: KVCache, rows: Sequence[int] | None = None) -> None:
        """Append rows of another cache of this runtime.

        Args:
            other: stays as it is.
            rows: which of its rows; the capacity stays what it is. None means all, and the capacity becomes the larger
                one of both.

        Raises:
            InvalidInputError: the rows that were named do not fit the capacity.
        """

    def reserve(self, rows: int) -> None:
        """Make room for this many rows of `capacity` tokens, with memory that is there.

        No later `join` up to that many rows allocates anything.

        Raises:
            InvalidInputError: the runtime is made for fewer rows.
            BackendError: the memory does not suffice.
        """

    def read_row(self, row: int) -> dict[str, NDArray[Any]]:
        """Copies of what a row holds: [H, P, D] by the contract's past names."""

    def write_row(self, row: int, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Make a row hold what `read_row` gave.

        Raises:
            InvalidInputError: shapes or dtypes are others, or the tokens do not fit the capacity.
        """

    def interrupt(self) -> None:
        """Make the step in flight on this cache raise CancelledError soon. Callable from any thread."""


@runtime_checkable
class Runtime(Protocol):
    """Token ids and a cache in, logits out. Everything else is policy above it.

    A runtime whose steps of one row have room for more tokens than one, at no cost, says how many in an attribute
    `free_drafts`; without it there are none. One whose step takes rows with any counts in one run, at the cost of their
    tokens, has `runs_ragged = True`; others run rows one by one where their counts differ. One that reads a prompt
    fastest in slices of a size says how many tokens in `prefill_chunk`.
    """

    @property
    def name(self) -> str:
        """The name in the registry."""

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""

    def new_cache(self, batch_size: int, capacity: int) -> KVCache:
        """An empty cache for `batch_size` rows of up to `capacity` tokens."""

    def step(
        self,
        token_ids: TokenIds,
        cache: KVCache,
        *,
        counts: NDArray[np.int64] | None = None,
        all_logits: bool = False,
    ) -> Logits:
        """Append tokens to every row of `cache` and return logits.

        Args:
            token_ids: [B, T] int64; row b's new tokens stand left, what is right of them is ignored.
            cache: of this runtime, with B rows; it holds the new tokens afterwards.
            counts: [B] how many of the T tokens of each row are real (1…T); None means all.
            all_logits: whether every position is wanted, or each row's last one only.

        Returns:
            [B, V] float32, the logits after each row's last token, or with `all_logits` [B, T, V],
            of which row b's first `counts[b]` positions mean something. The caller owns the array.

        Raises:
            InvalidInputError: an id outside the vocabulary, or counts outside 1…T.
            ContextLengthError: a row would exceed the cache's capacity.
            CancelledError: `cache.interrupt()` was called. The cache's lengths are as before the step.
            BackendError: the runtime failed.
        """

    def close(self) -> None:
        """Free what the runtime holds; calling it twice is allowed, stepping afterwards is a BackendError."""
