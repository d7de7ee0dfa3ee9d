"""The `cuda` runtime: ONNX Runtime's CUDA provider, with keys and values on the GPU.

With CUDA graphs a decode step is recorded once and replayed as one launch. What is recorded holds addresses and shapes:
ids, mask and logits stand in device memory of their own, and the mask is as long as the buffers, padded on the right.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from codegen_edge.bundle import Bundle, contract
from codegen_edge.errors import InvalidInputError
from codegen_edge.ort_session import CUDA_PROVIDER, PROVIDER, load_cuda_provider, open_device_session
from codegen_edge.runtimes.backends.kv_buffers import (
    KVBuffers,
    bind_array,
    bind_buffers,
    cache_dtype,
    check_cache_size,
)
from codegen_edge.runtimes.backends.ort import OrtRuntime, require_open, run_bound, run_options
from codegen_edge.runtimes.devices import Device
from codegen_edge.runtimes.devices.cuda import ALLOCATION_LOCK, CudaDevice
from codegen_edge.runtimes.runtime import KVCache, Logits, TokenIds

NAME = "cuda"
_GRAPH_ID, _NO_GRAPH = "gpu_graph_id", "-1"  # onnxruntime_run_options_config_keys.h


class CudaGraphRuntime(OrtRuntime):
    """An OrtRuntime whose decode steps are recorded as CUDA graphs. Steps of several threads wait for one another.

    A recording belongs to addresses, so memory is lent to caches and taken back: as many recordings are made as caches
    of one size are in use at once. A cache beyond `MOST_RECORDINGS` or one whose buffers were made anew steps without,
    and so do all that come after `MOST_GRAPHS`, for the session never forgets a recording.
    """

    MOST_RECORDINGS = 8
    MOST_GRAPHS = 64

    def __init__(self, bundle: Bundle, session: Any, *, cache_dtype: DTypeLike, device: Device) -> None:
        super().__init__(NAME, bundle, session, cache_dtype=cache_dtype, device=device)
        self._recordings: list[_Recording] = []
        self._lent: weakref.WeakKeyDictionary[KVBuffers, _Recording] = weakref.WeakKeyDictionary()
        self._num_graphs = 0

    def new_cache(self, batch_size: int, capacity: int) -> KVBuffers:
        """Empty KV buffers; those of an earlier cache of this size where they are free."""
        check_cache_size(self.config, batch_size, capacity)
        with ALLOCATION_LOCK:  # a step may be recorded
            recording = self._free_recording((batch_size, self.config.num_heads, capacity, self.config.head_dim))
            options = run_options()
            options.add_run_config_entry(_GRAPH_ID, _NO_GRAPH)
            cache = KVBuffers(
                self.config,
                batch_size,
                capacity,
                self._cache_dtype,
                device=self._device,
                options=[options],
                buffers=recording.buffers if recording else None,
            )
            if recording is None and len(self._recordings) < self.MOST_RECORDINGS:
                recording = self._new_recording(cache)
            if recording is not None:
                recording.options.terminate = False  # an earlier cache may have been interrupted at its end
                cache.options.append(recording.options)
                self._lent[cache] = recording
            return cache

    def step(
        self,
        token_ids: TokenIds,
        cache: KVCache,
        *,
        counts: NDArray[np.int64] | None = None,
        all_logits: bool = False,
    ) -> Logits:
        """Append tokens to every row and return logits; see `Runtime.step`."""
        with ALLOCATION_LOCK:  # a step may be recorded
            return super().step(token_ids, cache, counts=counts, all_logits=all_logits)

    def close(self) -> None:
        """Free the session and the memory of the recordings."""
        super().close()
        self._recordings.clear()
        self._lent.clear()
        self._device.free_released()

    def _free_recording(self, shape: tuple[int, ...]) -> _Recording | None:
        """One of this size that no cache has; one of another size makes room where there are too many."""
        in_use = {id(recording) for recording in self._lent.values()}
        free = [recording for recording in self._recordings if id(recording) not in in_use]
        fitting = [recording for recording in free if recording.buffer_shape == shape]
        if not fitting and free and len(self._recordings) == self.MOST_RECORDINGS:
            self._recordings.remove(free[0])
        return fitting[0] if fitting else None

    def _new_recording(self, cache: KVBuffers) -> _Recording | None:
        if self._num_graphs == self.MOST_GRAPHS:
            return None
        self._num_graphs += 1
        recording = _Recording(self._num_graphs, cache, self._device, self.config.vocab_size)
        self._recordings.append(recording)
        return recording

    def _run(
        self,
        token_ids: TokenIds,
        cache: KVBuffers,
        rows: slice,
        counts: NDArray[np.int64],
        *,
        all_logits: bool,
    ) -> Logits:
        recording = self._lent.get(cache)
        if recording is None or not recording.is_of(cache, token_ids):
            return super()._run(token_ids, cache, rows, counts, all_logits=all_logits)
        return recording.run(require_open(self._session, self.name, self._process), token_ids, cache)


class _Recording:
    """The device memory of a decode step: ids [B, 1], mask [B, C], logits [B, 1, V], and a cache's buffers."""

    def __init__(self, number: int, cache: KVBuffers, device: Device, vocab_size: int) -> None:
        self.buffer_shape = cache.buffer_shape
        rows, _, length, _ = cache.buffer_shape
        self.buffers = dict(cache.buffers)
        self.options = run_options()
        self.options.add_run_config_entry(_GRAPH_ID, str(number))
        self._ids = device.zeros((rows, 1, 1, 1), np.int64)
        self._mask = device.zeros((rows, 1, length, 1), np.int64)
        self._logits = device.zeros((rows, 1, 1, vocab_size), np.float32)
        self._device = device
        self._places = np.arange(length)
        self._shapes = {
            contract.INPUT_IDS: (rows, 1),
            contract.ATTENTION_MASK: (rows, length),
            contract.LOGITS: (rows, 1, vocab_size),
        }
        self._binding: Any = None

    @property
    def is_made(self) -> bool:
        """Whether a step was recorded."""
        return self._binding is not None

    def is_of(self, cache: KVBuffers, token_ids: TokenIds) -> bool:
        """Whether this is a decode step of all rows, over the buffers that were lent."""
        return token_ids.shape == self._ids.shape[:2] and all(
            cache.buffers[place] is buffer for place, buffer in self.buffers.items()
        )

    def run(self, session: Any, token_ids: TokenIds, cache: KVBuffers) -> Logits:
        """Replay the step, or record it when it is the first one; [B, 1, V]."""
        self._ids.write(token_ids.reshape(self._ids.shape))
        mask = (self._places <= cache.lengths[:, None]).astype(np.int64)
        self._mask.write(mask.reshape(self._mask.shape))
        if self._binding is None:
            self._binding = self._bound(session)
        run_bound(session, self._binding, cache, token_ids.shape, self.options)
        return self._logits.read()[:, 0]

    def _bound(self, session: Any) -> Any:
        """All but `logits_start`: of one token all logits are wanted, which is its default."""
        binding = session.io_binding()
        for name, array in ((contract.INPUT_IDS, self._ids), (contract.ATTENTION_MASK, self._mask)):
            bind_array(binding.bind_input, name, array, self._device, self._shapes[name])
        bind_array(binding.bind_output, contract.LOGITS, self._logits, self._device, self._shapes[contract.LOGITS])
        bind_buffers(binding, self.buffers, self._device)
        return binding


def open_runtime(
    bundle: Bundle,
    *,
    device_id: int = 0,
    memory_limit_mib: int | None = None,
    cuda_graph: bool = False,
    allow_cpu_nodes: bool = False,
) -> OrtRuntime:
    """Open a bundle with the `cuda` runtime.

    Args:
        bundle: what `codegen-edge build --runtime cuda` wrote.
        device_id: of the GPU, among those that the process sees.
        memory_limit_mib: of ONNX Runtime's arena, in which weights and what is computed lie; keys and values do not.
        cuda_graph: whether decode steps are recorded once and replayed as one launch.
        allow_cpu_nodes: whether nodes that CUDA does not have may be computed by the CPU.

    Raises:
        BundleError: the bundle was not built for this.
        RuntimeUnavailableError: no GPU, no driver, no library; nodes would be computed by the CPU.
    """
    bundle.require_task("text-generation")
    bundle.require_graph(NAME, target="ort", compute=("fp16", "bf16"))
    if memory_limit_mib is not None and memory_limit_mib < 1:
        raise InvalidInputError(f"memory_limit_mib must be at least 1, got {memory_limit_mib}")
    ort = load_cuda_provider()
    device = CudaDevice(device_id)
    settings = {"device_id": str(device_id), "arena_extend_strategy": "kSameAsRequested"}
    if memory_limit_mib is not None:
        settings["gpu_mem_limit"] = str(memory_limit_mib * 2**20)
    providers = [(CUDA_PROVIDER, settings), (PROVIDER, {})]
    if cuda_graph:
        settings["enable_cuda_graph"] = "1"
    with bundle.reading():
        model = bundle.at(contract.MODEL_FILE)
        session = open_device_session(model, ort, providers, allow_cpu_nodes=allow_cpu_nodes)
    dtype = cache_dtype(bundle.manifest)
    if cuda_graph:
        return CudaGraphRuntime(bundle, session, cache_dtype=dtype, device=device)
    return OrtRuntime(NAME, bundle, session, cache_dtype=dtype, device=device)
