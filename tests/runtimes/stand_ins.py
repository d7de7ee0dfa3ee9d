"""Stand-ins for what needs a GPU, at the border: TensorRT's runtime API and the device that it runs on.

`build` is honest: its "engine" is the very ONNX graph with its axes fixed and its weights inside. `FakeContext` runs
it with ONNX Runtime over the addresses that were set, and over nothing else; keys and values come out where the past
went in, as TensorRT does it.
"""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from codegen_edge.bundle import contract
from codegen_edge.runtimes.builders.engine_builder import Tensor
from codegen_edge.runtimes.devices import HostDevice
from codegen_edge.runtimes.tensorrt_library import TensorRT

VERSION = "11.4.0"
MAGIC = b"fake engine\n"


class StreamingHost(HostDevice):
    """The host as a device with a stream; counts how often it was waited for."""

    stream_address = 7

    def __init__(self) -> None:
        self.waits = 0

    def activate(self) -> None:
        """There is one host."""

    def synchronize(self) -> None:
        self.waits += 1


class FakeBuilder:
    """Builds engines that `FakeRuntime` loads."""

    def __init__(self, library: TensorRT, gpu: str | None = None) -> None:
        self.library = library
        self.gpu = gpu
        self.compute_capabilities: tuple[str, ...] = ("current",) if gpu else ("8.9",)

    def build(self, graph: Path, inputs: dict[str, Tensor], outputs: dict[str, Tensor]) -> bytes:
        model = onnx.load(str(graph))
        found = {
            value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
            for value in (*model.graph.input, *model.graph.output)
        }
        assert found == {name: shape for name, (shape, _) in (inputs | outputs).items()}
        return MAGIC + bytes(model.SerializeToString())


def fake_library(*, tells_aliases: bool = True) -> TensorRT:
    """TensorRT as `load_tensorrt` gives it, without a GPU."""
    api = SimpleNamespace(
        __version__=VERSION,
        TensorIOMode=SimpleNamespace(INPUT="input", OUTPUT="output"),
        Runtime=lambda logger: FakeRuntime(logger, tells_aliases),
    )
    return TensorRT("tensorrt", api, SimpleNamespace(errors=[]))


class FakeRuntime:
    def __init__(self, logger: Any, tells_aliases: bool) -> None:
        self.logger = logger
        self._tells_aliases = tells_aliases

    def deserialize_cuda_engine(self, content: bytes) -> Any:
        if not content.startswith(MAGIC):
            self.logger.errors.append("Serialization assertion magicTag failed")
            return None
        return (TellingEngine if self._tells_aliases else FakeEngine)(content.removeprefix(MAGIC))


class FakeEngine:
    def __init__(self, graph: bytes) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        self.session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.outputs = {value.name: value for value in self.session.get_outputs()}
        self.num_io_tensors = len(self.inputs) + len(self.outputs)

    def get_tensor_name(self, index: int) -> str:
        return str([*self.inputs, *self.outputs][index])

    def get_tensor_shape(self, name: str) -> list[int]:
        return list((self.inputs | self.outputs)[name].shape)

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name in self.inputs else "output"

    def create_execution_context(self) -> FakeContext:
        return FakeContext(self)


class TellingEngine(FakeEngine):
    """One that tells which input an output is written over, as newer versions do."""

    def get_aliased_input_tensor(self, name: str) -> str:
        return "" if name == contract.LOGITS else name.replace("present", "past_key_values")


_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}


class FakeContext:
    """Runs a step over addresses. An address that was never set, or that differs within a pair, is a failure."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self.addresses: dict[str, int] = {}
        self.steps = 0

    def set_tensor_address(self, name: str, address: int) -> bool:
        if name not in self._engine.inputs and name not in self._engine.outputs:
            return False
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == StreamingHost.stream_address
        wanted = {*self._engine.inputs, *self._engine.outputs}
        assert self.addresses.keys() == wanted, f"no address for {wanted - self.addresses.keys()}"
        for name in self._engine.outputs:
            if name != contract.LOGITS:
                assert self.addresses[name] == self.addresses[name.replace("present", "past_key_values")]
        fed = {name: self._at(name).copy() for name in self._engine.inputs}
        for name, value in zip(self._engine.outputs, self._engine.session.run(None, fed), strict=True):
            self._at(name)[...] = value
        self.steps += 1
        return True

    def _at(self, name: str) -> Any:
        value = (self._engine.inputs | self._engine.outputs)[name]
        dtype: np.dtype[Any] = np.dtype(_DTYPES[value.type])
        size = int(np.prod(value.shape)) * dtype.itemsize
        memory = (ctypes.c_char * size).from_address(self.addresses[name])
        return np.frombuffer(memoryview(memory), dtype).reshape(value.shape)


def edit_manifest(folder: Path, **engines: Any) -> None:
    """Change what bundle.json says of its engines."""
    path = folder / "bundle.json"
    fields = json.loads(path.read_text())
    fields["engines"] |= engines
    path.write_text(json.dumps(fields))
