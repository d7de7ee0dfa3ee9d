"""The KV cache of every runtime that binds buffers of a fixed capacity, in whichever memory its device has."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from codegen_edge.bundle import Manifest, contract
from codegen_edge.bundle.model_config import ModelConfig
from codegen_edge.errors import CancelledError, InvalidInputError
from codegen_edge.runtimes.devices import HOST, Device, DeviceArray, memory_errors
from codegen_edge.runtimes.runtime import KVCache

_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16
_NOT_OURS = "these keys and values are of another model, or do not fit the cache"


def cache_dtype(manifest: Manifest) -> np.dtype[Any]:
    """dtype of a bundle's keys and values; numpy has no bfloat16, so its bits are kept, as uint16."""
    name = contract.DTYPE_NAMES[manifest.cache_precision]
    return np.dtype(np.uint16 if name == "bfloat16" else name)


class KVBuffers:
    """KV buffers [rows, H, C, D], one pair a layer; the first B rows are the batch.

    Args:
        config: the model's shape.
        batch_size: B at the start.
        capacity: the most tokens a row can hold.
        dtype: of keys and values.
        device: where they lie.
        padding: positions of a buffer beyond what a row may hold.
        fixed: rows and length that the buffers have for good, whatever the batch and its capacity; None lets them grow.
        options: ONNX Runtime's RunOptions, through which a run in flight can be stopped; none where none can.
        buffers: memory of an earlier cache of this size, instead of new memory.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        capacity: int,
        dtype: DTypeLike,
        *,
        device: Device = HOST,
        padding: int = 0,
        fixed: tuple[int, int] | None = None,
        options: Sequence[Any] = (),
        buffers: Mapping[tuple[int, contract.KVPart], DeviceArray] | None = None,
    ) -> None:
        with memory_errors((batch_size,), np.int64):
            self.lengths = np.zeros(batch_size, np.int64)
        self.device = device
        self.options = list(options)
        self.capacity = capacity  # the most tokens a row can hold (C)
        self.fixed_rows = fixed[0] if fixed else 0
        self._padding = padding
        rows, length = fixed or (batch_size, capacity + padding)
        shape = (rows, config.num_heads, length, config.head_dim)
        places = product(range(config.num_layers), contract.KV_PARTS)
        self.buffers = dict(buffers) if buffers else {place: device.zeros(shape, dtype) for place in places}
        device.synchronize()
        self._is_interrupted = False
        self._lock = threading.RLock()  # a signal handler may interrupt the thread that holds it
        self._bindings: dict[tuple[int, int], Any] = {}  # by first and last row: a decode step binds no buffer anew

    @property
    def buffer_shape(self) -> tuple[int, int, int, int]:
        """[rows, H, C + padding, D], or larger where they are fixed."""
        return next(iter(self.buffers.values())).shape

    def rewind(self, row: int, length: int) -> None:
        """Forget what row `row` holds beyond its first `length` tokens; nothing is moved."""
        if not 0 <= length <= self.lengths[row]:
            raise InvalidInputError(f"row {row} holds {self.lengths[row]} tokens, cannot rewind it to {length}")
        self.lengths[row] = length

    def select(self, rows: Sequence[int], shared: int = 0) -> None:
        """Make the batch `rows` of what it was; rows that stay in their place cost nothing."""
        if len(rows) > self.buffer_shape[0]:
            self._reallocate(len(rows), self.capacity)
            shared = 0  # the new rows lack that, too
        moves = [(new, old, int(self.lengths[old])) for new, old in enumerate(rows) if new != old]
        is_direct = not {new for new, _, _ in moves} & {old for _, old, _ in moves}
        for buffer in self.buffers.values():
            if is_direct:
                for new, old, length in moves:
                    buffer.copy_row(new, buffer, old, shared, length)
                continue
            # All are taken before one is written: rows change places.
            taken = [buffer.take(old, shared, length) for _, old, length in moves]
            for (new, _, _), tokens in zip(moves, taken, strict=True):
                buffer.put(new, shared, tokens)
        self.device.synchronize()
        self.lengths = self.lengths[np.array(rows, np.int64)]

    def join(self, other: KVCache, rows: Sequence[int] | None = None) -> None:
        """Append rows of another cache."""
        assert isinstance(other, KVBuffers)
        joining = list(range(len(other.lengths)) if rows is None else rows)
        batch_size, more = len(self.lengths), len(joining)
        capacity = max(self.capacity, other.capacity) if rows is None else self.capacity
        if any(other.lengths[row] > capacity for row in joining):
            raise InvalidInputError(f"a row that joins holds more than the cache's capacity of {capacity} tokens")
        if batch_size + more > self.buffer_shape[0] or capacity + self._padding > self.buffer_shape[2]:
            # Twice as many rows, so that rows that join one by one are not copied every time.
            self._reallocate(max(batch_size + more, 2 * batch_size), capacity)
        self.capacity = capacity
        for place, buffer in self.buffers.items():
            for place_of_row, row in enumerate(joining, batch_size):
                buffer.copy_row(place_of_row, other.buffers[place], row, 0, int(other.lengths[row]))
        self.device.synchronize()
        self.lengths = np.concatenate([self.lengths, other.lengths[np.array(joining, np.int64)]])

    def reserve(self, rows: int) -> None:
        """Make room for `rows` rows, with memory that is there: joining rows then costs the copy of their tokens."""
        if rows > self.buffer_shape[0]:
            self._reallocate(rows, self.capacity, is_touched=True)

    def read_row(self, row: int) -> dict[str, NDArray[Any]]:
        """Copies of what a row holds."""
        length = int(self.lengths[row])
        return {
            contract.past_name(*place): buffer.take(row, 0, length).read()[0] for place, buffer in self.buffers.items()
        }

    def write_row(self, row: int, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Make a row hold what `read_row` gave."""
        named = {contract.past_name(*place): buffer for place, buffer in self.buffers.items()}
        lengths = {tensor.shape[1] if tensor.ndim == 3 else -1 for tensor in tensors.values()}
        length = lengths.pop() if len(lengths) == 1 else -1
        _, heads, _, head_dim = self.buffer_shape
        fits = named.keys() == tensors.keys() and 0 <= length <= self.capacity
        if not fits or any(
            tensor.shape != (heads, length, head_dim) or tensor.dtype != named[name].dtype
            for name, tensor in tensors.items()
        ):
            raise InvalidInputError(_NOT_OURS)
        if length:
            for name, tensor in tensors.items():
                staged = self.device.zeros((1, heads, length, head_dim), tensor.dtype)
                staged.write(tensor[None])
                named[name].put(row, 0, staged)
            self.device.synchronize()
        self.lengths[row] = length

    def binding(self, session: Any, rows: slice) -> Any:
        """ONNX Runtime's binding of some rows' buffers as past and present; made once, kept for later steps."""
        if (rows.start, rows.stop) not in self._bindings:
            binding = session.io_binding()
            bind_buffers(
                binding,
                {place: buffer.rows(rows.start, rows.stop) for place, buffer in self.buffers.items()},
                self.device,
            )
            self._bindings[rows.start, rows.stop] = binding
        return self._bindings[rows.start, rows.stop]

    def interrupt(self) -> None:
        """Make the run in flight on this cache stop within milliseconds, or the next one where none can be stopped."""
        with self._lock:
            self._is_interrupted = True
            for options in self.options:
                options.terminate = True

    def raise_if_interrupted(self) -> None:
        """Raise CancelledError once for every interruption; the cache is usable afterwards."""
        with self._lock:
            if self._is_interrupted:
                self._is_interrupted = False
                for options in self.options:
                    options.terminate = False
                raise CancelledError("the step was cancelled")

    def _reallocate(self, num_rows: int, capacity: int, *, is_touched: bool = False) -> None:
        if self.fixed_rows:
            raise InvalidInputError(
                f"the engines were built for {self.fixed_rows} rows, {num_rows} are needed; build others",
                hint=f"codegen-edge build BUNDLE OUT --runtime tensorrt --batch {num_rows}",
            )
        _, heads, _, head_dim = self.buffer_shape
        shape = (num_rows, heads, capacity + self._padding, head_dim)
        made = {}
        for place, old in self.buffers.items():
            made[place] = new = self.device.zeros(shape, old.dtype)
            if is_touched:
                self.device.touch(new)
            for row, length in enumerate(self.lengths):
                new.copy_row(row, old, row, 0, int(length))
        self.device.synchronize()
        # All or none: where the memory does not suffice the cache stays what it was.
        self._bindings.clear()
        self.buffers = made


def bind_buffers(binding: Any, buffers: Mapping[tuple[int, contract.KVPart], DeviceArray], device: Device) -> None:
    """Bind each buffer as its layer's past and present."""
    for place, buffer in buffers.items():
        bind_array(binding.bind_input, contract.past_name(*place), buffer, device)
        bind_array(binding.bind_output, contract.present_name(*place), buffer, device)


def bind_array(bind: Any, name: str, array: DeviceArray, device: Device, shape: tuple[int, ...] | None = None) -> None:
    """Bind an array by address, under another shape where one is given: no copy, some rows of a buffer are allowed."""
    element = _BFLOAT16 if array.dtype == np.uint16 else array.dtype.type
    bind(name, device.kind, device.index, element, shape or array.shape, array.address)


def bind_host(bind: Any, name: str, array: NDArray[Any]) -> None:
    """Bind an array of the host by address."""
    bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def check_cache_size(config: ModelConfig, batch_size: int, capacity: int) -> None:
    """Raise InvalidInputError for a cache without rows, or of a capacity outside the context."""
    if batch_size < 1 or not 1 <= capacity <= config.context_length:
        raise InvalidInputError(
            f"a cache needs batch_size >= 1 and capacity in 1…{config.context_length}, got {batch_size} and {capacity}"
        )
