"""The `ort` target's graph under ONNX Runtime, whichever provider computes it."""

from __future__ import annotations

import os
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from codegen_edge.bundle import Bundle, contract
from codegen_edge.errors import BackendError, BundleError, RuntimeUnavailableError
from codegen_edge.machine import has_vnni, processor_name
from codegen_edge.ort_session import load_onnxruntime
from codegen_edge.runtimes.backends.kv_buffers import KVBuffers, bind_host, check_cache_size
from codegen_edge.runtimes.devices import HOST, Device
from codegen_edge.runtimes.runtime import KVCache, Logits, TokenIds
from codegen_edge.runtimes.step_input import check_step

# Tokens that a prompt is read by on the CPU: more of them leave the processor's cache between two operators
# (benchmarks/prefill_chunks.py).
CPU_PREFILL_CHUNK = 128


def run_options() -> Any:
    """Options of one run; setting their `terminate` from another thread stops it."""
    options = load_onnxruntime().RunOptions()
    options.log_severity_level = 4  # a cancelled run is no error to log; failures are raised
    return options


def require_cpu_graph(bundle: Bundle, runtime: str = "cpu") -> None:
    """Raise unless this is a graph that `runtime` computes in float32, and this processor as well.

    Raises:
        BundleError: the graph is of another target or computes in another dtype.
        RuntimeUnavailableError: the bundle was made for processors of another kind.
    """
    bundle.require_graph(runtime, target="ort", compute=("fp32",))
    if bundle.manifest.processor == "vnni" and not has_vnni():
        raise RuntimeUnavailableError(
            f"{bundle.path} was quantized for processors with VNNI, and {processor_name()} is not known to have it: "
            "its sums would saturate. Quantize the fp32 bundle again for any processor",
            hint=f"codegen-edge quantize FP32-BUNDLE OUT --scheme {bundle.manifest.precision}",
        )


class OrtRuntime:
    """A session of the `ort` target's graph, and KV buffers in the memory of its device.

    A step is one run of the graph when every row gets one token, or when no row has a past and all rows get
    equally many. Otherwise rows are run one by one: GroupQueryAttention takes several tokens onto a past at
    batch 1 only, and ragged prompts would pay for their padding.

    Args:
        name: of the runtime.
        bundle: text-generation, target ort.
        session: of its graph.
        cache_dtype: of past and present.
        device: where they lie.
    """

    def __init__(
        self, name: str, bundle: Bundle, session: Any, *, cache_dtype: DTypeLike, device: Device = HOST
    ) -> None:
        self.name = name
        self.config = bundle.manifest.model
        self._cache_dtype = cache_dtype
        self._device = device
        self._session = session
        self._process = os.getpid()
        self._check_graph(bundle)
        # The input that spares the LM head: its name, and its value for all positions and for the last.
        self._keep = (contract.NUM_LOGITS_TO_KEEP, 0, 1)
        if bundle.manifest.compute != "fp32":
            self._keep = (contract.LOGITS_START, 0, -1)

    def _check_graph(self, bundle: Bundle) -> None:
        """Raise BundleError unless the graph has the inputs and outputs of the manifest's model."""
        past = [self.config.num_heads, self.config.head_dim]
        expected: dict[str, list[int]] = {contract.INPUT_IDS: [], contract.ATTENTION_MASK: []}
        expected[contract.LOGITS] = [self.config.vocab_size]
        for layer, part in product(range(self.config.num_layers), contract.KV_PARTS):
            expected[contract.past_name(layer, part)] = expected[contract.present_name(layer, part)] = past
        expected |= self._own_inputs
        values = [*self._session.get_inputs(), *self._session.get_outputs()]
        found = {value.name: [dim for dim in value.shape if isinstance(dim, int)] for value in values}
        wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        if wrong:
            raise BundleError(f"{bundle.model_path} is not the graph of {bundle.manifest.model}: {wrong[0]} differs")

    @property
    def _own_inputs(self) -> dict[str, list[int]]:
        """Inputs that the session has beside those of the contract, with the axes that are fixed."""
        return {}

    def new_cache(self, batch_size: int, capacity: int) -> KVBuffers:
        """Empty KV buffers for `batch_size` rows of up to `capacity` tokens."""
        check_cache_size(self.config, batch_size, capacity)
        return KVBuffers(
            self.config, batch_size, capacity, self._cache_dtype, device=self._device, options=[run_options()]
        )

    def step(
        self,
        token_ids: TokenIds,
        cache: KVCache,
        *,
        counts: NDArray[np.int64] | None = None,
        all_logits: bool = False,
    ) -> Logits:
        """Append tokens to every row and return logits; see `Runtime.step`."""
        assert isinstance(cache, KVBuffers)
        counts = check_step(token_ids, cache, counts, self.config.vocab_size)
        batch_size, num_new = token_ids.shape
        if self._run_together(cache, counts, num_new, all_logits=all_logits):
            logits = self._run(token_ids, cache, slice(0, batch_size), counts, all_logits=all_logits)
        else:
            logits = self._step_rows(token_ids, cache, counts, all_logits=all_logits)
        cache.lengths = cache.lengths + counts
        return logits if all_logits else logits[:, -1]

    def close(self) -> None:
        """Free the session."""
        self._session = None

    def _run_together(self, cache: KVBuffers, counts: NDArray[np.int64], num_new: int, *, all_logits: bool) -> bool:
        """Whether one run of the graph computes a step of all rows; they are run one by one otherwise."""
        return num_new == 1 or (not cache.lengths.any() and (all_logits or int(counts.min()) == num_new))

    def _step_rows(
        self, token_ids: TokenIds, cache: KVBuffers, counts: NDArray[np.int64], *, all_logits: bool
    ) -> Logits:
        batch_size, num_new = token_ids.shape
        num_kept = num_new if all_logits else 1
        logits = np.zeros((batch_size, num_kept, self.config.vocab_size), np.float32)
        for row in range(batch_size):
            rows, count = slice(row, row + 1), counts[row]
            row_logits = self._run(token_ids[rows, :count], cache, rows, counts[rows], all_logits=all_logits)
            logits[row, : row_logits.shape[1]] = row_logits[0]
        return logits

    def _run(
        self,
        token_ids: TokenIds,
        cache: KVBuffers,
        rows: slice,
        counts: NDArray[np.int64],
        *,
        all_logits: bool,
    ) -> Logits:
        """Run the graph on some rows of the cache; return [B, T or 1, V]."""
        session = require_open(self._session, self.name, self._process)
        totals = cache.lengths[rows] + counts  # [B], S of each row
        batch_size, num_new = token_ids.shape
        # Right padding: row b's mask has totals[b] ones. [B, S]
        span = int(cache.lengths[rows].max()) + num_new
        mask = (np.arange(span) < totals[:, None]).astype(np.int64)
        logits = np.empty((batch_size, num_new if all_logits else 1, self.config.vocab_size), np.float32)

        ids = np.ascontiguousarray(token_ids)
        keep_name, of_all, of_last = self._keep
        keep = np.array([of_all if all_logits else of_last], np.int64)
        binding = cache.binding(session, rows)
        bind_host(binding.bind_input, contract.INPUT_IDS, ids)
        bind_host(binding.bind_input, contract.ATTENTION_MASK, mask)
        bind_host(binding.bind_input, keep_name, keep)
        bind_host(binding.bind_output, contract.LOGITS, logits)
        run_bound(session, binding, cache, token_ids.shape)
        return logits


def require_open(session: Any | None, name: str, process: int) -> Any:
    """A runtime's session, where it is open and this is the process that opened it.

    A fork has the session's memory and none of its threads: a step of it may wait for them for good.

    Args:
        session: None where the runtime was closed; another thread may close it any time, so the one returned is used.
        name: of the runtime.
        process: id of the process that opened it.

    Raises:
        BackendError: it was closed, or opened by another process.
    """
    if session is None:
        raise BackendError(f"the {name} runtime was closed")
    if process != os.getpid():
        raise BackendError(
            f"the {name} runtime was opened in process {process}, of which this one is a fork: its threads are not "
            'here. Open it in each process, or start processes with multiprocessing.get_context("spawn")'
        )
    return session


def run_bound(session: Any, binding: Any, cache: KVBuffers, shape: tuple[int, ...], options: Any | None = None) -> None:
    """Run what is bound for a step of `shape` [B, T]; raise CancelledError where the cache was interrupted.

    `options` are the cache's first ones, or others of its.
    """
    cache.raise_if_interrupted()
    try:
        session.run_with_iobinding(binding, cache.options[0] if options is None else options)
    # onnxruntime's exceptions share no base but Exception.
    except Exception as exc:
        cache.raise_if_interrupted()
        reason = " ".join(str(exc).split())
        raise BackendError(f"onnxruntime failed in a step of {shape[0]}x{shape[1]} tokens: {reason}") from exc
    cache.raise_if_interrupted()
