"""The graph that TensorRT gets, computed by ONNX Runtime's CPU provider: it is proved where no GPU is."""

from __future__ import annotations

import os
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codegen_edge.bundle import Bundle, contract
from codegen_edge.errors import BundleError
from codegen_edge.ort_session import open_session
from codegen_edge.runtimes.backends.kv_buffers import KVBuffers, bind_host, check_cache_size
from codegen_edge.runtimes.backends.ort import require_open, run_bound, run_options
from codegen_edge.runtimes.backends.static_step import StaticRuntime
from codegen_edge.runtimes.devices import HostArray
from codegen_edge.runtimes.runtime import TokenIds

CHUNK = 16  # tokens of a prefill step


class StaticCpuRuntime(StaticRuntime):
    """The `static-cpu` runtime.

    Args:
        bundle: text-generation, target tensorrt.
        threads: CPU threads; None takes all that this process may use.
    """

    name = "static-cpu"
    chunk = CHUNK

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        bundle.require_task("text-generation")
        bundle.require_graph(self.name, target="tensorrt", compute=("fp32",))
        self.config = bundle.manifest.model
        with bundle.reading():
            self._session = open_session(bundle.at(contract.MODEL_FILE), threads)
        self._process = os.getpid()
        self._check_graph(bundle)

    def _check_graph(self, bundle: Bundle) -> None:
        expected = {contract.INPUT_IDS, contract.PAST_LENGTH, contract.LOGITS}
        for place in product(range(self.config.num_layers), contract.KV_PARTS):
            expected |= {contract.past_name(*place), contract.present_name(*place)}
        found = {value.name for value in (*self._session.get_inputs(), *self._session.get_outputs())}
        if found != expected:
            raise BundleError(f"{bundle.model_path} is not the graph of {bundle.manifest.model}")

    def new_cache(self, batch_size: int, capacity: int) -> KVBuffers:
        """Empty KV buffers for `batch_size` rows of up to `capacity` tokens."""
        check_cache_size(self.config, batch_size, capacity)
        return KVBuffers(self.config, batch_size, capacity, np.float32, padding=CHUNK, options=[run_options()])

    def close(self) -> None:
        """Free the session."""
        self._session = None

    def _run(self, token_ids: TokenIds, cache: KVBuffers, past_length: NDArray[np.int64]) -> HostArray:
        """Run the graph on all rows; return [B, 1, T, V]."""
        session = require_open(self._session, self.name, self._process)
        batch_size, num_new = token_ids.shape
        logits = np.empty((batch_size, num_new, self.config.vocab_size), np.float32)
        binding: Any = cache.binding(session, slice(0, batch_size))
        bind_host(binding.bind_input, contract.INPUT_IDS, token_ids)
        bind_host(binding.bind_input, contract.PAST_LENGTH, past_length)
        bind_host(binding.bind_output, contract.LOGITS, logits)
        run_bound(session, binding, cache, token_ids.shape)
        return HostArray(logits[:, None])


def open_runtime(bundle: Bundle, *, threads: int | None = None) -> StaticCpuRuntime:
    """Open a bundle with the `static-cpu` runtime."""
    return StaticCpuRuntime(bundle, threads=threads)
