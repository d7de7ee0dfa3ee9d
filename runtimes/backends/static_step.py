"""Steps of the static graph: a chunk of tokens or one, for a fixed number of rows.

What is missing in a step is padding, whose keys and values land in the last positions of the buffers, beyond what a
row may hold, or in positions that the row's next tokens overwrite.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from codegen_edge.runtimes.backends.kv_buffers import KVBuffers
from codegen_edge.runtimes.devices import DeviceArray
from codegen_edge.runtimes.runtime import Logits, TokenIds
from codegen_edge.runtimes.step_input import check_step

RunStep = Callable[[TokenIds, NDArray[np.int64]], DeviceArray]
"""Ids [B, T] and past lengths [B] in, logits [B, 1, T, V] out; keys and values are in the buffers afterwards."""


def static_step(
    run: RunStep,
    token_ids: TokenIds,
    cache: KVBuffers,
    counts: NDArray[np.int64] | None,
    *,
    vocab_size: int,
    chunk: int,
    all_logits: bool,
) -> Logits:
    """`Runtime.step` by runs of `chunk` tokens, or of one; of the logits, what is wanted leaves the device."""
    counts = check_step(token_ids, cache, counts, vocab_size)
    batch_size, num_new = token_ids.shape
    num_rows = max(batch_size, cache.fixed_rows)
    logits = np.zeros((batch_size, num_new if all_logits else 1, vocab_size), np.float32)
    size = 1 if num_new == 1 else chunk
    for start in range(0, num_new, size):
        # A row whose tokens are all read gets padding, which leaves its past as it is.
        past = np.zeros(num_rows, np.int64)
        past[:batch_size] = cache.lengths + np.minimum(start, counts)
        part = token_ids[:, start : start + size]
        padded = np.zeros((num_rows, size), np.int64)
        padded[:batch_size, : part.shape[1]] = part
        cache.raise_if_interrupted()
        made = run(padded, past)
        if all_logits:
            for row in range(batch_size):
                logits[row, start : start + size] = made.take(row, 0, part.shape[1]).read()[0, 0]
        elif size == 1:
            logits[:] = made.read()[:batch_size, 0]
        else:
            for row in np.flatnonzero((counts > start) & (counts <= start + size)).tolist():
                last = int(counts[row]) - start
                logits[row] = made.take(row, last - 1, last).read()[0, 0]
    cache.raise_if_interrupted()
    cache.lengths = cache.lengths + counts
    return logits if all_logits else logits[:, 0]
