"""Steps of the static graph: a chunk of tokens or one, for a fixed number of rows.

What is missing in a step is padding, whose keys and values land in the last positions of the buffers, beyond what a
row may hold, or in positions that the row's next tokens overwrite.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codegen_edge.bundle.model_config import ModelConfig
from codegen_edge.runtimes.backends.kv_buffers import KVBuffers
from codegen_edge.runtimes.devices import DeviceArray
from codegen_edge.runtimes.runtime import KVCache, Logits, TokenIds
from codegen_edge.runtimes.step_input import check_step


class StaticRuntime:
    """What the runtimes of the static graph share: `step`, by runs of `chunk` tokens or of one.

    Attributes:
        config: the model's shape.
        chunk: tokens of a prefill run.
        lock: entered for a step.
    """

    config: ModelConfig
    chunk: int
    lock: AbstractContextManager[Any] = nullcontext()

    def _run(self, token_ids: TokenIds, cache: KVBuffers, past_length: NDArray[np.int64]) -> DeviceArray:
        """Compute ids [B, T] behind pasts of `past_length` [B]; logits [B, 1, T, V], keys and values in the cache."""
        raise NotImplementedError

    def step(
        self,
        token_ids: TokenIds,
        cache: KVCache,
        *,
        counts: NDArray[np.int64] | None = None,
        all_logits: bool = False,
    ) -> Logits:
        """Append tokens to every row and return logits; see `Runtime.step`. Only what is wanted leaves the device."""
        assert isinstance(cache, KVBuffers)
        counts = check_step(token_ids, cache, counts, self.config.vocab_size)
        batch_size, num_new = token_ids.shape
        logits = np.zeros((batch_size, num_new if all_logits else 1, self.config.vocab_size), np.float32)
        size = 1 if num_new == 1 else self.chunk
        with self.lock:
            for start in range(0, num_new, size):
                part = token_ids[:, start : start + size]
                # A row whose tokens are all read gets padding, which leaves its past as it is.
                made = self._run_padded(part, cache, cache.lengths + np.minimum(start, counts), size)
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

    def _run_padded(self, part: TokenIds, cache: KVBuffers, past_length: NDArray[np.int64], size: int) -> DeviceArray:
        num_rows = max(len(part), cache.fixed_rows)
        past = np.zeros(num_rows, np.int64)
        past[: len(part)] = past_length
        padded = np.zeros((num_rows, size), np.int64)
        padded[: len(part), : part.shape[1]] = part
        cache.raise_if_interrupted()
        return self._run(padded, cache, past)
