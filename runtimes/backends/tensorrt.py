"""The `tensorrt` runtime: engines of the static graph, over KV buffers that they change in place on the GPU."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from codegen_edge.bundle import CURRENT_GPU, ENGINE_FILES, Bundle, Engines, Phase, contract
from codegen_edge.errors import BackendError, BundleError, IntegrityError, InvalidInputError, RuntimeUnavailableError
from codegen_edge.runtimes.backends.kv_buffers import KVBuffers, cache_dtype, check_cache_size
from codegen_edge.runtimes.backends.static_step import StaticRuntime
from codegen_edge.runtimes.devices import Device, DeviceArray
from codegen_edge.runtimes.runtime import TokenIds
from codegen_edge.runtimes.tensorrt_library import TensorRT, load_tensorrt, reported_errors

NAME = "tensorrt"


class EngineDevice(Device, Protocol):
    """A device with a stream that engines run on."""

    @property
    def stream_address(self) -> int:
        """The stream's handle."""

    def activate(self) -> None:
        """Make it the current device of this thread."""

    def synchronize(self) -> None:
        """Wait until the stream has done everything."""


class TensorRTRuntime(StaticRuntime):
    """The `tensorrt` runtime. Steps of several threads wait for one another: an engine has one set of addresses.

    Args:
        bundle: what `codegen-edge build --runtime tensorrt` wrote.
        library: that built its engines.
        device: where they run.

    Raises:
        BundleError: the bundle holds no engines, or they do not fit one another.
        IntegrityError: an engine was altered; it is not loaded.
        RuntimeUnavailableError: the engines are of another version, or for another GPU.
    """

    name = NAME

    def __init__(self, bundle: Bundle, library: TensorRT, device: EngineDevice) -> None:
        bundle.require_task("text-generation")
        engines = engines_of(bundle)
        require_version(bundle, engines, library)
        # What the loop takes for the context is what the buffers hold.
        self.config = replace(bundle.manifest.model, context_length=engines.capacity)
        self.engines = engines
        self._model = bundle.manifest.model
        self._device = device
        self._cache_dtype = cache_dtype(bundle.manifest)
        self.chunk = engines.chunk
        self.lock = threading.Lock()  # logits stay on the device until they are read
        self._phases: dict[Phase, _EngineRun] | None = {
            phase: _EngineRun(library, device, read_engine(bundle, phase), f"the {phase} engine of {bundle.path}")
            for phase in ENGINE_FILES
        }
        for phase, num_new in self._num_new().items():
            self._phases[phase].require_shapes((engines.batch_size, num_new), self._buffer_shape)

    def new_cache(self, batch_size: int, capacity: int) -> KVBuffers:
        """KV buffers of the engines' size for `batch_size` rows.

        Raises:
            InvalidInputError: more rows or tokens than the engines were built for.
        """
        check_cache_size(self._model, batch_size, capacity)
        engines = self.engines
        if batch_size > engines.batch_size or capacity > engines.capacity:
            raise InvalidInputError(
                f"{batch_size} rows of {capacity} tokens were asked for, the engines were built for "
                f"{engines.batch_size} of {engines.capacity}; build others",
                hint="codegen-edge build BUNDLE OUT --runtime tensorrt --batch "
                f"{max(batch_size, engines.batch_size)} --capacity {max(capacity, engines.capacity)}",
            )
        return KVBuffers(
            self.config,
            batch_size,
            capacity,
            self._cache_dtype,
            device=self._device,
            padding=engines.chunk,
            fixed=(engines.batch_size, engines.buffer_length),
        )

    def close(self) -> None:
        """Free the engines."""
        self._phases = None

    def _run(self, token_ids: TokenIds, cache: KVBuffers, past_length: NDArray[np.int64]) -> DeviceArray:
        if self._phases is None:
            raise BackendError("the tensorrt runtime was closed")
        phase: Phase = "decode" if token_ids.shape[1] == 1 else "prefill"
        return self._phases[phase](token_ids, cache, past_length)

    def _num_new(self) -> dict[Phase, int]:
        return {"prefill": self.engines.chunk, "decode": 1}

    @property
    def _buffer_shape(self) -> tuple[int, ...]:
        engines, config = self.engines, self.config
        return engines.batch_size, config.num_heads, engines.buffer_length, config.head_dim


class _EngineRun:
    """One engine with its context, and the device memory of what goes in and out beside keys and values."""

    def __init__(self, library: TensorRT, device: EngineDevice, content: bytes, what: str) -> None:
        api, logger = library.api, library.logger
        logger.errors.clear()
        device.activate()
        self._library = library
        self._device = device
        self._what = what
        try:
            self._runtime = api.Runtime(logger)
        except TypeError as exc:  # how the bindings say that the factory gave nothing
            raise RuntimeUnavailableError(f"{library.name} cannot work here: {reported_errors(logger)}") from exc
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise BackendError(f"{library.name} {library.version} refuses {what}: {reported_errors(logger)}")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise BackendError(f"there is no room on the GPU for {what}: {reported_errors(logger)}")
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        self._shapes = {name: tuple(self._engine.get_tensor_shape(name)) for name in names}
        self._aliases = {
            name: self._aliased_input(name)
            for name in names
            if self._engine.get_tensor_mode(name) == api.TensorIOMode.OUTPUT
        }
        self._ids = device.zeros(_four(self._shape(contract.INPUT_IDS)), np.int64)
        self._past_length = device.zeros(_four(self._shape(contract.PAST_LENGTH)), np.int64)
        self._logits = device.zeros(_four(self._shape(contract.LOGITS)), np.float32)
        for name, array in (
            (contract.INPUT_IDS, self._ids),
            (contract.PAST_LENGTH, self._past_length),
            (contract.LOGITS, self._logits),
        ):
            self._set_address(name, array.address)
        self._bound: list[int] = []

    def require_shapes(self, ids: tuple[int, ...], buffers: tuple[int, ...]) -> None:
        """Raise BundleError unless the engine takes these ids and buffers, and changes its buffers in place."""
        if self._shape(contract.INPUT_IDS) != ids:
            raise BundleError(f"{self._what} takes ids {self._shape(contract.INPUT_IDS)}, not {ids}: build it again")
        for name, source in self._aliases.items():
            if name != contract.LOGITS and self._shape(name) != buffers:
                raise BundleError(f"{self._what} gives {name} of {self._shape(name)}, not {buffers}: build it again")
            # An older library does not report it; where one does, it must be the past of the same layer.
            if name != contract.LOGITS and source not in (None, name.replace("present", "past_key_values")):
                raise BundleError(f"{self._what} writes {name} over {source or 'no input'}: build it again")

    def __call__(self, token_ids: TokenIds, cache: KVBuffers, past_length: NDArray[np.int64]) -> DeviceArray:
        """Run a step of all rows; the logits [B, 1, T, V] stay on the device until the next step."""
        self._device.activate()  # threads have current devices of their own
        addresses = [buffer.address for buffer in cache.buffers.values()]
        if addresses != self._bound:
            self._bound = []  # until all are set
            for place, address in zip(cache.buffers, addresses, strict=True):
                self._set_address(contract.past_name(*place), address)
                self._set_address(contract.present_name(*place), address)  # written in place
            self._bound = addresses
        self._ids.write(token_ids.reshape(self._ids.shape))
        self._past_length.write(past_length.reshape(self._past_length.shape))
        if not self._context.execute_async_v3(self._device.stream_address):
            raise BackendError(f"{self._what} failed: {reported_errors(self._library.logger)}")
        self._device.synchronize()
        return self._logits

    def _shape(self, name: str) -> tuple[int, ...]:
        if name not in self._shapes:
            raise BundleError(f"{self._what} has no {name}: build it again")
        return self._shapes[name]

    def _set_address(self, name: str, address: int) -> None:
        if not self._context.set_tensor_address(name, address):
            raise BackendError(f"{self._what} takes no {name}: {reported_errors(self._library.logger)}")

    def _aliased_input(self, output: str) -> str | None:
        """The input that an output is written over, "" where there is none; None where it is not reported."""
        for query in ("get_aliased_input_tensor", "get_aliased_input"):  # TensorRT-RTX's name, TensorRT's
            if hasattr(self._engine, query):
                return str(getattr(self._engine, query)(output) or "")
        return None


def engines_of(bundle: Bundle) -> Engines:
    """How the bundle's engines were built; raise BundleError where it holds none."""
    engines = bundle.manifest.engines
    if engines is None:
        steps = f"codegen-edge build {bundle.path} OUT --runtime tensorrt"
        if bundle.manifest.target != "tensorrt":
            steps = (
                "codegen-edge export CHECKPOINT BUNDLE --target tensorrt, then "
                "codegen-edge build BUNDLE OUT --runtime tensorrt"
            )
        raise BundleError(f"{bundle.path} holds no engines; build them", hint=steps)
    return engines


def require_version(bundle: Bundle, engines: Engines, library: TensorRT) -> None:
    """Raise RuntimeUnavailableError unless this very version of the library built the engines."""
    if (engines.library, engines.version) != (library.name, library.version):
        raise RuntimeUnavailableError(
            f"the engines of {bundle.path} were built by {engines.library} {engines.version}, here is {library.name} "
            f"{library.version}; build them again",
            hint=REBUILD,
        )


REBUILD = "codegen-edge build BUNDLE OUT --runtime tensorrt --overwrite"


def require_gpu(bundle: Bundle, engines: Engines, name: str, compute_capability: str) -> None:
    """Raise RuntimeUnavailableError unless the engines were built for this GPU."""
    built_for = (
        engines.gpu if engines.compute_capabilities == (CURRENT_GPU,) else ", ".join(engines.compute_capabilities)
    )
    fits = engines.gpu == name if engines.gpu else compute_capability in engines.compute_capabilities
    if not fits:
        raise RuntimeUnavailableError(
            f"the engines of {bundle.path} were built for {built_for}, this GPU is {name} of compute capability "
            f"{compute_capability} (of several GPUs, CUDA_VISIBLE_DEVICES says which one); build them again",
            hint=REBUILD,
        )


def read_engine(bundle: Bundle, phase: Phase) -> bytes:
    """An engine's bytes, the very ones that were hashed; raise IntegrityError where they are not what was built.

    An engine is code: this is asked of every load, however the bundle was opened.
    """
    path = bundle.engine_path(phase)
    content = bundle.read(ENGINE_FILES[phase])
    if hashlib.sha256(content).hexdigest() != bundle.manifest.files[ENGINE_FILES[phase]].sha256:
        raise IntegrityError(f"{path} was altered: it is not loaded; build it again", hint=REBUILD)
    return content


def _four(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """[B], [B, T] and [B, T, V] as arrays of four axes, the tokens in the third."""
    rows, *rest = shape
    length, width = (*rest, 1, 1)[:2]
    return rows, 1, length, width


def open_runtime(bundle: Bundle, *, device_id: int = 0) -> TensorRTRuntime:
    """Open a bundle with the `tensorrt` runtime.

    Args:
        bundle: what `codegen-edge build --runtime tensorrt` wrote.
        device_id: of the GPU, among those that the process sees.
    """
    from codegen_edge.runtimes.devices.cuda import CudaDevice

    engines = engines_of(bundle)
    library = load_tensorrt(engines.library)
    require_version(bundle, engines, library)
    device = CudaDevice(device_id)
    require_gpu(bundle, engines, device.gpu.name, device.gpu.compute_capability)
    return TensorRTRuntime(bundle, library, device)
