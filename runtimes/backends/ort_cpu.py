"""ONNX Runtime on the CPU, with one preallocated KV buffer per layer bound as past and present."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codegen_edge import contract
from codegen_edge.bundle import Bundle
from codegen_edge.errors import BackendError, BundleError, CancelledError, InvalidInputError
from codegen_edge.model_config import ModelConfig
from codegen_edge.ort_session import load_onnxruntime, open_session
from codegen_edge.runtimes.runtime import KVCache, Logits, TokenIds
from codegen_edge.runtimes.step_input import check_step

_CACHE_DTYPES: dict[contract.KVPrecision, type[np.generic]] = {"fp32": np.float32, "int8": np.int8}


def run_options() -> Any:
    """Options of one run; setting their `terminate` from another thread stops it."""
    options = load_onnxruntime().RunOptions()
    options.log_severity_level = 4  # a cancelled run is no error to log; failures are raised
    return options


class OrtCpuCache:
    """KV buffers [rows, H, C, D], one pair a layer; the first B rows are the batch.

    Memory that no token has touched costs nothing.
    """

    _padding = 0  # positions beyond what a row may hold

    def __init__(self, config: ModelConfig, batch_size: int, capacity: int, dtype: type[np.generic]) -> None:
        shape = (batch_size, config.num_heads, capacity + self._padding, config.head_dim)
        self.lengths = np.zeros(batch_size, np.int64)
        self.buffers = {
            (layer, part): np.zeros(shape, dtype)
            for layer, part in product(range(config.num_layers), contract.KV_PARTS)
        }
        self.options = run_options()
        self._is_interrupted = False
        self._lock = threading.RLock()  # a signal handler may interrupt the thread that holds it
        self._bindings: dict[tuple[int, int], Any] = {}  # by first and last row: a decode step binds no buffer anew

    @property
    def capacity(self) -> int:
        """The most tokens a row can hold (C)."""
        return self._buffer_shape[2] - self._padding

    @property
    def _buffer_shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = next(iter(self.buffers.values())).shape
        return shape

    def rewind(self, row: int, length: int) -> None:
        """Forget what row `row` holds beyond its first `length` tokens; nothing is moved."""
        if not 0 <= length <= self.lengths[row]:
            raise InvalidInputError(f"row {row} holds {self.lengths[row]} tokens, cannot rewind it to {length}")
        self.lengths[row] = length

    def select(self, rows: Sequence[int], shared: int = 0) -> None:
        """Make the batch `rows` of what it was; rows that stay in their place cost nothing."""
        if len(rows) > self._buffer_shape[0]:
            self._reallocate(len(rows), self.capacity)
            shared = 0  # the new rows lack that, too
        moves = [(new, old) for new, old in enumerate(rows) if new != old]
        for buffer in self.buffers.values():
            # All are taken before one is written: rows may change places.
            taken = [buffer[old, :, shared : self.lengths[old]].copy() for _, old in moves]
            for (new, old), tokens in zip(moves, taken, strict=True):
                buffer[new, :, shared : self.lengths[old]] = tokens
        self.lengths = self.lengths[list(rows)]

    def join(self, other: KVCache) -> None:
        """Append the rows of another cache."""
        assert isinstance(other, OrtCpuCache)
        batch_size, more = len(self.lengths), len(other.lengths)
        capacity = max(self.capacity, other.capacity)
        if batch_size + more > self._buffer_shape[0] or capacity > self.capacity:
            # Twice as many rows, so that rows that join one by one are not copied every time.
            self._reallocate(max(batch_size + more, 2 * batch_size), capacity)
        for place, buffer in self.buffers.items():
            for row, length in enumerate(other.lengths):
                buffer[batch_size + row, :, :length] = other.buffers[place][row, :, :length]
        self.lengths = np.concatenate([self.lengths, other.lengths])

    def read_row(self, row: int) -> dict[str, NDArray[Any]]:
        """Copies of what a row holds."""
        length = self.lengths[row]
        return {contract.past_name(*place): buffer[row, :, :length].copy() for place, buffer in self.buffers.items()}

    def write_row(self, row: int, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Make a row hold what `read_row` gave."""
        named = {contract.past_name(*place): buffer for place, buffer in self.buffers.items()}
        lengths = {tensor.shape[1] if tensor.ndim == 3 else -1 for tensor in tensors.values()}
        length = lengths.pop() if len(lengths) == 1 else -1
        fits = named.keys() == tensors.keys() and 0 <= length <= self.capacity
        if not fits or any(
            tensor.shape != named[name][row, :, :length].shape or tensor.dtype != named[name].dtype
            for name, tensor in tensors.items()
        ):
            raise InvalidInputError("these keys and values are of another model, or do not fit the cache")
        for name, tensor in tensors.items():
            named[name][row, :, :length] = tensor
        self.lengths[row] = length

    def binding(self, session: Any, rows: slice) -> Any:
        """The binding of some rows' buffers as past and present; made once, kept for later steps."""
        if (rows.start, rows.stop) not in self._bindings:
            binding = session.io_binding()
            for (layer, part), buffer in self.buffers.items():
                bind_memory(binding.bind_input, contract.past_name(layer, part), buffer[rows])
                bind_memory(binding.bind_output, contract.present_name(layer, part), buffer[rows])
            self._bindings[rows.start, rows.stop] = binding
        return self._bindings[rows.start, rows.stop]

    def _reallocate(self, num_rows: int, capacity: int) -> None:
        _, heads, _, head_dim = self._buffer_shape
        for place, old in self.buffers.items():
            self.buffers[place] = new = np.zeros((num_rows, heads, capacity + self._padding, head_dim), old.dtype)
            for row, length in enumerate(self.lengths):
                new[row, :, :length] = old[row, :, :length]
        self._bindings.clear()

    def interrupt(self) -> None:
        """Make the run in flight on this cache stop within milliseconds."""
        with self._lock:
            self._is_interrupted = True
            self.options.terminate = True

    def raise_if_interrupted(self) -> None:
        """Raise CancelledError once for every interruption; the cache is usable afterwards."""
        with self._lock:
            if self._is_interrupted:
                self._is_interrupted = self.options.terminate = False
                raise CancelledError("the step was cancelled")


class OrtCpuRuntime:
    """The `cpu` runtime.

    A step is one run of the graph when every row gets one token, or when no row has a past and all rows get
    equally many. Otherwise rows are run one by one: GroupQueryAttention takes several tokens onto a past at
    batch 1 only, and ragged prompts would pay for their padding.

    Args:
        bundle: text-generation.
        threads: CPU threads; None takes all that this process may use.
        weights: float weights to compute with instead of the bundle's own, by name.
    """

    name = "cpu"

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        weights: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> None:
        bundle.require_task("text-generation")
        bundle.require_target("ort", "cpu")
        self.config = bundle.manifest.model
        self._cache_dtype = _CACHE_DTYPES[bundle.manifest.kv_cache]
        self._session = open_session(bundle.model_path, threads, weights=weights)
        self._check_graph(bundle)

    def _check_graph(self, bundle: Bundle) -> None:
        """Raise BundleError unless the graph has the inputs and outputs of the manifest's model."""
        past = [self.config.num_heads, self.config.head_dim]
        expected: dict[str, list[int]] = {contract.INPUT_IDS: [], contract.ATTENTION_MASK: []}
        expected[contract.LOGITS] = [self.config.vocab_size]
        for layer, part in product(range(self.config.num_layers), contract.KV_PARTS):
            expected[contract.past_name(layer, part)] = expected[contract.present_name(layer, part)] = past
        values = [*self._session.get_inputs(), *self._session.get_outputs()]
        found = {value.name: [dim for dim in value.shape if isinstance(dim, int)] for value in values}
        wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        if wrong:
            raise BundleError(f"{bundle.model_path} is not the graph of {bundle.manifest.model}: {wrong[0]} differs")

    def new_cache(self, batch_size: int, capacity: int) -> OrtCpuCache:
        """Empty KV buffers for `batch_size` rows of up to `capacity` tokens."""
        check_cache_size(self.config, batch_size, capacity)
        return OrtCpuCache(self.config, batch_size, capacity, self._cache_dtype)

    def step(
        self,
        token_ids: TokenIds,
        cache: KVCache,
        *,
        counts: NDArray[np.int64] | None = None,
        all_logits: bool = False,
    ) -> Logits:
        """Append tokens to every row and return logits; see `Runtime.step`."""
        assert isinstance(cache, OrtCpuCache)
        counts = check_step(token_ids, cache, counts, self.config.vocab_size)
        batch_size, num_new = token_ids.shape
        if num_new == 1 or (not cache.lengths.any() and (all_logits or counts.min() == num_new)):
            logits = self._run(token_ids, cache, slice(0, batch_size), counts, all_logits=all_logits)
        else:
            logits = self._step_rows(token_ids, cache, counts, all_logits=all_logits)
        cache.lengths = cache.lengths + counts
        return logits if all_logits else logits[:, -1]

    def close(self) -> None:
        """Free the session."""
        self._session = None

    def _step_rows(
        self, token_ids: TokenIds, cache: OrtCpuCache, counts: NDArray[np.int64], *, all_logits: bool
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
        cache: OrtCpuCache,
        rows: slice,
        counts: NDArray[np.int64],
        *,
        all_logits: bool,
    ) -> Logits:
        """Run the graph on some rows of the cache; return [B, T or 1, V]."""
        if self._session is None:
            raise BackendError("the cpu runtime was closed")
        totals = cache.lengths[rows] + counts  # [B], S of each row
        batch_size, num_new = token_ids.shape
        # Right padding: row b's mask has totals[b] ones. [B, S]
        span = int(cache.lengths[rows].max()) + num_new
        mask = (np.arange(span) < totals[:, None]).astype(np.int64)
        logits = np.empty((batch_size, num_new if all_logits else 1, self.config.vocab_size), np.float32)

        ids = np.ascontiguousarray(token_ids)
        keep = np.array([0 if all_logits else 1], np.int64)
        binding = cache.binding(self._session, rows)
        bind_memory(binding.bind_input, contract.INPUT_IDS, ids)
        bind_memory(binding.bind_input, contract.ATTENTION_MASK, mask)
        bind_memory(binding.bind_input, contract.NUM_LOGITS_TO_KEEP, keep)
        bind_memory(binding.bind_output, contract.LOGITS, logits)
        run_bound(self._session, binding, cache, token_ids.shape)
        return logits


def check_cache_size(config: ModelConfig, batch_size: int, capacity: int) -> None:
    """Raise InvalidInputError for a cache without rows, or of a capacity outside the context."""
    if batch_size < 1 or not 1 <= capacity <= config.context_length:
        raise InvalidInputError(
            f"a cache needs batch_size >= 1 and capacity in 1…{config.context_length}, got {batch_size} and {capacity}"
        )


def run_bound(session: Any, binding: Any, cache: OrtCpuCache, shape: tuple[int, ...]) -> None:
    """Run what is bound for a step of `shape` [B, T]; raise CancelledError where the cache was interrupted."""
    cache.raise_if_interrupted()
    try:
        session.run_with_iobinding(binding, cache.options)
    # onnxruntime's exceptions share no base but Exception.
    except Exception as exc:
        cache.raise_if_interrupted()
        raise BackendError(f"onnxruntime failed in a step of {shape[0]}x{shape[1]} tokens: {exc}") from exc
    cache.raise_if_interrupted()


def bind_memory(bind: Any, name: str, array: NDArray[Any]) -> None:
    """Bind an array's memory by address: no copy, and a row view of a larger buffer is allowed."""
    bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def open_runtime(bundle: Bundle, *, threads: int | None = None) -> OrtCpuRuntime:
    """Open a bundle with the `cpu` runtime."""
    return OrtCpuRuntime(bundle, threads=threads)
