"""Memory in which runtimes keep KV buffers and logits: on the host, or on a GPU (`cuda.py`)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from codegen_edge.errors import BackendError

Shape4 = tuple[int, int, int, int]


class DeviceArray(Protocol):
    """Four axes in a row: [rows, groups, length, width], which is what KV buffers [B, H, C, D] are.

    Logits are one with a single group, [B, 1, T, V]. bfloat16 is kept as the uint16 of the same bits.
    """

    @property
    def shape(self) -> Shape4:
        """[rows, groups, length, width]."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """As numpy has it."""

    @property
    def address(self) -> int:
        """Where the first element lies."""

    def rows(self, first: int, stop: int) -> DeviceArray:
        """The same memory, of some rows only."""

    def take(self, row: int, first: int, stop: int) -> DeviceArray:
        """A copy on the device of a row's tokens: [1, groups, stop - first, width]."""

    def put(self, row: int, first: int, tokens: DeviceArray) -> None:
        """Write what `take` of an array with the same groups and width gave."""

    def copy_row(self, row: int, source: DeviceArray, source_row: int, first: int, stop: int) -> None:
        """Copy tokens of a row of an array with the same groups and width to the same positions of a row of this one.

        Args:
            row: of this array.
            source: on the same device; it may be this array.
            source_row: its row, another one than `row` where it is this array.
            first, stop: the tokens.
        """

    def read(self) -> NDArray[Any]:
        """All of it, copied to the host."""

    def write(self, values: NDArray[Any]) -> None:
        """Overwrite all of it with host values of its shape and dtype."""


class Device(Protocol):
    """Where arrays live."""

    @property
    def kind(self) -> str:
        """ "cpu" or "cuda", as ONNX Runtime names devices."""

    @property
    def index(self) -> int:
        """Which one of its kind."""

    def zeros(self, shape: Shape4, dtype: DTypeLike) -> DeviceArray:
        """A new array of zeros; raise BackendError where the memory does not suffice."""

    def touch(self, array: DeviceArray) -> None:
        """Zero an array, so that its memory is there before the first token is written."""

    def synchronize(self) -> None:
        """Wait for what was queued: zeros, and copies on the device."""

    def free_released(self) -> None:
        """Free the memory of arrays that are gone, where that waits for a call."""


@contextmanager
def memory_errors(shape: tuple[int, ...], dtype: DTypeLike) -> Iterator[None]:
    """Map what numpy raises where the host's memory does not hold an array to BackendError."""
    try:
        yield
    except (MemoryError, ValueError) as exc:  # ValueError: more bytes than there are addresses
        size_gb = math.prod(shape) * np.dtype(dtype).itemsize / 1e9
        raise BackendError(
            f"no memory for an array of {size_gb:.3g} GB, {list(shape)}: take fewer rows or a shorter context"
        ) from exc


class HostArray:
    """A DeviceArray in the process's own memory."""

    __slots__ = ("values",)

    def __init__(self, values: NDArray[Any]) -> None:
        self.values = values

    @property
    def shape(self) -> Shape4:
        """[rows, groups, length, width]."""
        rows, groups, length, width = self.values.shape
        return rows, groups, length, width

    @property
    def dtype(self) -> np.dtype[Any]:
        """As numpy has it."""
        dtype: np.dtype[Any] = self.values.dtype
        return dtype

    @property
    def address(self) -> int:
        """Where the first element lies."""
        return self.values.ctypes.data

    def rows(self, first: int, stop: int) -> HostArray:
        """The same memory, of some rows only."""
        return HostArray(self.values[first:stop])

    def take(self, row: int, first: int, stop: int) -> HostArray:
        """A copy of a row's tokens."""
        taken = self.values[row : row + 1, :, first:stop]
        with memory_errors(taken.shape, taken.dtype):
            return HostArray(taken.copy())

    def put(self, row: int, first: int, tokens: DeviceArray) -> None:
        """Write what `take` gave."""
        assert isinstance(tokens, HostArray)
        self.values[row, :, first : first + tokens.shape[2]] = tokens.values[0]

    def copy_row(self, row: int, source: DeviceArray, source_row: int, first: int, stop: int) -> None:
        """Copy tokens of a row."""
        assert isinstance(source, HostArray)
        self.values[row, :, first:stop] = source.values[source_row, :, first:stop]

    def read(self) -> NDArray[Any]:
        """A copy."""
        with memory_errors(self.values.shape, self.dtype):
            return self.values.copy()

    def write(self, values: NDArray[Any]) -> None:
        """Overwrite all of it."""
        self.values[...] = values


class HostDevice:
    """The process's own memory. Pages that no token has touched cost nothing."""

    kind = "cpu"
    index = 0

    def zeros(self, shape: Shape4, dtype: DTypeLike) -> HostArray:
        """A new array of zeros; raise BackendError where the memory does not suffice."""
        with memory_errors(shape, dtype):
            return HostArray(np.zeros(shape, dtype))

    def touch(self, array: DeviceArray) -> None:
        """Write to every page."""
        assert isinstance(array, HostArray)
        array.values.fill(0)

    def synchronize(self) -> None:
        """Nothing is queued."""

    def free_released(self) -> None:
        """Nothing waits to be freed."""


HOST = HostDevice()
