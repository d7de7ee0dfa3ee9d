"""The checks around a step: every runtime makes the one before it, so that no two can differ in what they refuse."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codegen_edge.errors import BackendError, ContextLengthError, InvalidInputError
from codegen_edge.runtimes.runtime import KVCache, Logits, Runtime, TokenIds


def check_step(
    token_ids: TokenIds, cache: KVCache, counts: NDArray[np.int64] | None, vocab_size: int
) -> NDArray[np.int64]:
    """Check a step's input.

    Args:
        token_ids: [B, T] int64.
        cache: the cache that the step extends, B rows.
        counts: [B] real tokens of each row, or None for all T.
        vocab_size: V; ids must be in 0…V-1 (kernels wrap negative ids or read out of bounds).

    Returns:
        [B] int64, the counts.

    Raises:
        InvalidInputError: wrong shape or dtype, an id outside the vocabulary, counts outside 1…T.
        ContextLengthError: a row would exceed the cache's capacity.
    """
    if token_ids.ndim != 2 or token_ids.dtype != np.int64 or token_ids.size == 0:
        raise InvalidInputError(
            f"token_ids must be a non-empty int64 array [B, T], got {token_ids.dtype} {token_ids.shape}"
        )
    batch_size, num_new = token_ids.shape
    if batch_size != len(cache.lengths):
        raise InvalidInputError(f"token_ids has {batch_size} rows, the cache {len(cache.lengths)}")
    if counts is None:
        counts = np.full(batch_size, num_new, np.int64)
    if counts.shape != (batch_size,) or counts.min() < 1 or counts.max() > num_new:
        raise InvalidInputError(f"counts must be {batch_size} numbers in 1…{num_new}, got {counts.tolist()}")
    lowest, highest = int(token_ids.min()), int(token_ids.max())
    if lowest < 0 or highest >= vocab_size:
        wrong = lowest if lowest < 0 else highest
        raise InvalidInputError(f"token id {wrong} is outside the vocabulary of {vocab_size}")
    total = int((cache.lengths + counts).max())
    if total > cache.capacity:
        raise ContextLengthError(f"{total} tokens do not fit the cache's capacity of {cache.capacity}")
    return counts


def check_logits(runtime: Runtime, logits: Logits, token_ids: TokenIds, *, all_logits: bool = False) -> Logits:
    """`logits` themselves, as `Runtime.step` gave them for `token_ids` [B, T].

    Raises:
        BackendError: they are no [B, V], or with `all_logits` no [B, T, V]: a text made of them would mean nothing.
    """
    wanted = (*(token_ids.shape if all_logits else token_ids.shape[:1]), runtime.config.vocab_size)
    found = getattr(logits, "shape", None)
    if found != wanted:
        raise BackendError(f"runtime {runtime.name} gave logits of shape {found}; {wanted} were asked for")
    return logits
