"""The graph that TensorRT gets, computed by ONNX Runtime's CPU provider: it is proved where no GPU is.

Steps have the shapes that engines have: a chunk of tokens or one, for a fixed number of rows. What is missing is
padding, whose keys and values land in the last positions of the buffers, beyond what a row may hold.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codegen_edge import contract
from codegen_edge.bundle import Bundle
from codegen_edge.errors import BackendError, BundleError
from codegen_edge.ort_session import open_session
from codegen_edge.runtimes.backends.ort_cpu import OrtCpuCache, bind_memory, check_cache_size, run_bound
from codegen_edge.runtimes.runtime import KVCache, Logits, TokenIds
from codegen_edge.runtimes.step_input import check_step

CHUNK = 16  # tokens of a prefill step


class StaticCpuCache(OrtCpuCache):
    """KV buffers with room for a chunk of padding beyond what a row may hold."""

    _padding = CHUNK


class StaticCpuRuntime:
    """The `static-cpu` runtime.

    Args:
        bundle: text-generation, target tensorrt.
        threads: CPU threads; None takes all that this process may use.
    """

    name = "static-cpu"

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        bundle.require_task("text-generation")
        bundle.require_target("tensorrt", self.name)
        self.config = bundle.manifest.model
        self._session = open_session(bundle.model_path, threads)
        self._check_graph(bundle)

    def _check_graph(self, bundle: Bundle) -> None:
        expected = {contract.INPUT_IDS, contract.PAST_LENGTH, contract.LOGITS}
        for place in product(range(self.config.num_layers), contract.KV_PARTS):
            expected |= {contract.past_name(*place), contract.present_name(*place)}
        found = {value.name for value in (*self._session.get_inputs(), *self._session.get_outputs())}
        if found != expected:
            raise BundleError(f"{bundle.model_path} is not the graph of {bundle.manifest.model}")

    def new_cache(self, batch_size: int, capacity: int) -> StaticCpuCache:
        """Empty KV buffers for `batch_size` rows of up to `capacity` tokens."""
        check_cache_size(self.config, batch_size, capacity)
        return StaticCpuCache(self.config, batch_size, capacity, np.float32)

    def step(
        self,
        token_ids: TokenIds,
        cache: KVCache,
        *,
        counts: NDArray[np.int64] | None = None,
        all_logits: bool = False,
    ) -> Logits:
        """Append tokens to every row and return logits; see `Runtime.step`."""
        assert isinstance(cache, StaticCpuCache)
        counts = check_step(token_ids, cache, counts, self.config.vocab_size)
        batch_size, num_new = token_ids.shape
        logits = np.zeros((batch_size, num_new if all_logits else 1, self.config.vocab_size), np.float32)
        size = 1 if num_new == 1 else CHUNK
        for start in range(0, num_new, size):
            # A row whose tokens are all read gets padding, which leaves its past as it is.
            read = np.minimum(start, counts)
            padded = np.zeros((batch_size, size), np.int64)
            part = token_ids[:, start : start + size]
            padded[:, : part.shape[1]] = part
            made = self._run(padded, cache, cache.lengths + read)
            if all_logits:
                logits[:, start : start + size] = made[:, : part.shape[1]]
            else:
                rows = np.flatnonzero((counts > start) & (counts <= start + size))
                logits[rows, 0] = made[rows, counts[rows] - start - 1]
        cache.lengths = cache.lengths + counts
        return logits if all_logits else logits[:, 0]

    def close(self) -> None:
        """Free the session."""
        self._session = None

    def _run(self, token_ids: TokenIds, cache: StaticCpuCache, past_length: NDArray[np.int64]) -> Logits:
        """Run the graph on all rows; return [B, T, V]."""
        if self._session is None:
            raise BackendError("the static-cpu runtime was closed")
        batch_size, num_new = token_ids.shape
        logits = np.empty((batch_size, num_new, self.config.vocab_size), np.float32)
        past_length = np.ascontiguousarray(past_length, np.int64)
        binding: Any = cache.binding(self._session, slice(0, batch_size))
        bind_memory(binding.bind_input, contract.INPUT_IDS, token_ids)
        bind_memory(binding.bind_input, contract.PAST_LENGTH, past_length)
        bind_memory(binding.bind_output, contract.LOGITS, logits)
        run_bound(self._session, binding, cache, token_ids.shape)
        return logits


def open_runtime(bundle: Bundle, *, threads: int | None = None) -> StaticCpuRuntime:
    """Open a bundle with the `static-cpu` runtime."""
    return StaticCpuRuntime(bundle, threads=threads)
