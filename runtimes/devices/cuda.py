"""Memory and the stream of an NVIDIA GPU, through NVIDIA's own `cuda-python`: no torch, no pycuda.

All work of a device goes through one stream, and everything that the host sees has been waited for.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from codegen_edge.dependencies import install_command
from codegen_edge.errors import BackendError, InvalidInputError, RuntimeUnavailableError
from codegen_edge.runtimes.devices import DeviceArray, Shape4

INSTALL = install_command("cuda")
_OUT_OF_MEMORY = "cudaErrorMemoryAllocation"


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as the driver describes it.

    Attributes:
        index: among the devices that the process sees.
        name: for example "NVIDIA L4".
        compute_capability: major and minor, for example "8.9".
        memory_bytes: of the device.
    """

    index: int
    name: str
    compute_capability: str
    memory_bytes: int


def load_cudart() -> Any:
    """NVIDIA's runtime API; raise RuntimeUnavailableError where it cannot be imported."""
    try:
        from cuda.bindings import runtime
    except ImportError as exc:
        raise RuntimeUnavailableError(
            f"GPU memory is reached through cuda-bindings, which cannot be imported ({exc}): {INSTALL}"
        ) from exc
    return runtime


def list_gpus() -> list[Gpu]:
    """The GPUs that this process sees.

    Raises:
        RuntimeUnavailableError: no driver, a driver that is too old, no GPU, or no cuda-bindings.
    """
    cudart = load_cudart()
    error, count = cudart.cudaGetDeviceCount()
    if error.name in ("cudaErrorInsufficientDriver", "cudaErrorStubLibrary"):
        _, driver = cudart.cudaDriverGetVersion()
        _, needed = cudart.cudaRuntimeGetVersion()
        if driver == 0:
            raise RuntimeUnavailableError("no NVIDIA driver was found on this machine")
        raise RuntimeUnavailableError(
            f"the NVIDIA driver knows CUDA {_version(driver)}, this needs {_version(needed)}: install a newer driver"
        )
    if error.name == "cudaErrorNoDevice" or (error.name == "cudaSuccess" and count == 0):
        raise RuntimeUnavailableError("no NVIDIA GPU was found (CUDA_VISIBLE_DEVICES may hide it)")
    if error.name != "cudaSuccess":
        raise RuntimeUnavailableError(f"CUDA cannot be used: {error.name}")
    gpus = []
    for index in range(count):
        error, properties = cudart.cudaGetDeviceProperties(index)
        if error.name != "cudaSuccess":
            raise RuntimeUnavailableError(f"GPU {index} cannot be used: {error.name}")
        name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
        capability = f"{properties.major}.{properties.minor}"
        gpus.append(Gpu(index, name.rstrip("\0"), capability, int(properties.totalGlobalMem)))
    return gpus


def find_gpu(index: int) -> Gpu:
    """The GPU with this index; raise RuntimeUnavailableError where there is none, InvalidInputError for no number."""
    if not isinstance(index, int):
        raise InvalidInputError(f"device_id must be the number of a GPU, got {index!r}")
    gpus = list_gpus()
    if not 0 <= index < len(gpus):
        listed = ", ".join(f"{gpu.index}: {gpu.name}" for gpu in gpus)
        raise RuntimeUnavailableError(f"there is no GPU {index}; there are: {listed}")
    return gpus[index]


def driver_cuda_version() -> str:
    """The newest CUDA that the driver knows, "0.0" where there is no driver."""
    cudart = load_cudart()
    return _version(cudart.cudaDriverGetVersion()[1])


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


# One for the process: while any thread records a CUDA graph, an allocation of any other one breaks the recording
# (cudaStreamCaptureModeGlobal, which is what ONNX Runtime records in).
ALLOCATION_LOCK = threading.RLock()


class CudaArray:
    """A DeviceArray on a GPU. Copies on the device are queued: `CudaDevice.synchronize` waits for them."""

    def __init__(self, device: CudaDevice, shape: Shape4, dtype: DTypeLike, address: int, owner: object) -> None:
        self.shape = shape
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.address = address
        self._device = device
        self._owner = owner  # frees the memory when the last array that uses it is gone

    @property
    def nbytes(self) -> int:
        """Of all elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    def rows(self, first: int, stop: int) -> CudaArray:
        """The same memory, of some rows only."""
        _, groups, length, width = self.shape
        address = self._place(first, 0)
        return CudaArray(self._device, (stop - first, groups, length, width), self.dtype, address, self._owner)

    def take(self, row: int, first: int, stop: int) -> CudaArray:
        """A copy on the device of a row's tokens."""
        _, groups, _, width = self.shape
        taken = self._device.empty((1, groups, stop - first, width), self.dtype)
        self._copy(taken, 0, 0, self, row, first, stop - first)
        return taken

    def put(self, row: int, first: int, tokens: DeviceArray) -> None:
        """Write what `take` gave."""
        assert isinstance(tokens, CudaArray)
        self._copy(self, row, first, tokens, 0, 0, tokens.shape[2])

    def copy_row(self, row: int, source: DeviceArray, source_row: int, first: int, stop: int) -> None:
        """Copy tokens of a row; queued."""
        assert isinstance(source, CudaArray)
        self._copy(self, row, first, source, source_row, first, stop - first)

    def read(self) -> NDArray[Any]:
        """All of it, copied to the host."""
        values = np.empty(self.shape, self.dtype)
        self._device.call("cudaMemcpyAsync", values.ctypes.data, self.address, self.nbytes, "cudaMemcpyDeviceToHost")
        self._device.synchronize()
        return values

    def write(self, values: NDArray[Any]) -> None:
        """Overwrite all of it with host values."""
        assert values.shape == self.shape, f"{values.shape} is not {self.shape}"
        assert values.dtype == self.dtype, f"{values.dtype} is not {self.dtype}"
        values = np.ascontiguousarray(values)
        self._device.call("cudaMemcpyAsync", self.address, values.ctypes.data, self.nbytes, "cudaMemcpyHostToDevice")
        self._device.synchronize()  # `values` may go

    def _place(self, row: int, first: int) -> int:
        _, groups, length, width = self.shape
        return self.address + (row * groups * length + first) * width * self.dtype.itemsize

    def _copy(
        self, target: CudaArray, to_row: int, to: int, source: CudaArray, from_row: int, start: int, count: int
    ) -> None:
        """Copy `count` tokens of every group: as many lines as groups, a buffer's length apart."""
        token_bytes = self.shape[3] * self.dtype.itemsize
        if not count:
            return
        self._device.call(
            "cudaMemcpy2DAsync",
            target._place(to_row, to),
            target.shape[2] * token_bytes,
            source._place(from_row, start),
            source.shape[2] * token_bytes,
            count * token_bytes,
            self.shape[1],
            "cudaMemcpyDeviceToDevice",
        )


class CudaDevice:
    """One GPU.

    Args:
        index: among the devices that the process sees.

    Raises:
        RuntimeUnavailableError: no driver, no such GPU.
    """

    kind = "cuda"

    def __init__(self, index: int = 0) -> None:
        self.gpu = find_gpu(index)
        self.index = index
        self._cudart = load_cudart()
        self._released: deque[int] = deque()
        self.activate()
        stream = self._check("cudaStreamCreate", self._cudart.cudaStreamCreate())
        self._stream = stream
        self.stream_address = int(stream)
        weakref.finalize(self, self._cudart.cudaStreamDestroy, stream)

    def activate(self) -> None:
        """Make it the current device of this thread."""
        self._check("cudaSetDevice", self._cudart.cudaSetDevice(self.index))

    def zeros(self, shape: Shape4, dtype: DTypeLike) -> CudaArray:
        """A new array of zeros."""
        array = self.empty(shape, dtype)
        self._check("cudaMemsetAsync", self._cudart.cudaMemsetAsync(array.address, 0, array.nbytes, self._stream))
        return array

    def touch(self, array: DeviceArray) -> None:
        """Device memory is there from the start."""

    def empty(self, shape: Shape4, dtype: DTypeLike) -> CudaArray:
        """A new array of whatever lies there."""
        num_bytes = max(1, math.prod(shape) * np.dtype(dtype).itemsize)
        with ALLOCATION_LOCK:
            self.activate()
            result = self._cudart.cudaMalloc(num_bytes)
            if result[0].name == _OUT_OF_MEMORY and self._released:
                self._cudart.cudaGetLastError()
                self.free_released()
                result = self._cudart.cudaMalloc(num_bytes)
        if result[0].name == _OUT_OF_MEMORY:
            self._cudart.cudaGetLastError()  # the next call must not report it again
            raise BackendError(
                f"GPU {self.index} has no room for {num_bytes / 2**20:,.0f} MiB more: give a smaller capacity or "
                "batch, or close what else runs there"
            )
        address = int(self._check("cudaMalloc", result))
        owner = _Allocation()
        weakref.finalize(owner, self._released.append, address)
        return CudaArray(self, shape, dtype, address, owner)

    def free_released(self) -> None:
        """Free the memory of arrays that are gone.

        Their finalizers only note it: the garbage collector may run them in the middle of a recording, and a free
        waits for the device, which moving many buffers must not do for each.
        """
        with ALLOCATION_LOCK:
            while self._released:
                self._check("cudaFree", self._cudart.cudaFree(self._released.pop()))

    def call(self, name: str, *arguments: Any) -> None:
        """Call a copy function on the stream; the last argument names its direction."""
        *others, direction = arguments
        kind = getattr(self._cudart.cudaMemcpyKind, direction)
        self._check(name, getattr(self._cudart, name)(*others, kind, self._stream))

    def synchronize(self) -> None:
        """Wait until the stream has done everything, then free what was used by it only."""
        self._check("cudaStreamSynchronize", self._cudart.cudaStreamSynchronize(self._stream))
        if self._released:
            self.free_released()

    def _check(self, name: str, result: tuple[Any, ...]) -> Any:
        error, *values = result
        if error.name != "cudaSuccess":
            _, text = self._cudart.cudaGetErrorString(error)
            reported = text.decode() if isinstance(text, bytes) else text
            raise BackendError(f"{name} failed on GPU {self.index}: {reported}")
        return values[0] if values else None


class _Allocation:
    """Stands for device memory."""

    __slots__ = ("__weakref__",)
