"""A bundle's graph as onnx-ir reads it: behind the gate, with weights mapped from the file that was checked."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from codegen_edge.bundle import Bundle, contract
from codegen_edge.bundle.opened import read_graph
from codegen_edge.errors import BundleError, CodegenEdgeError

_HALF_BYTE = 4  # bits of a value of which two lie in a byte


class MappedTensor(ir.ExternalTensor):
    """An initializer in a data file that is mapped already.

    onnx-ir opens data files by path, and refuses links and hard links. Here the manifest vouches for the bytes,
    wherever a link leads: a copy by `cp -al` and the cache of the hub are as good as any other copy.
    """

    def __init__(self, tensor: ir.ExternalTensor, data: mmap.mmap | bytes) -> None:
        super().__init__(
            tensor.location, tensor.offset, tensor.length, tensor.dtype, shape=tensor.shape, name=str(tensor.name)
        )
        self._data = data
        self._values: NDArray[Any] | None = None

    def numpy(self) -> NDArray[Any]:
        """The values, mapped; those of four bits are unpacked."""
        if self._values is None:
            self._values = self._read()
        return self._values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self.numpy(), dtype)

    def tobytes(self) -> bytes:
        """The bytes as they lie in the file."""
        start = self.offset or 0
        return bytes(self._data[start : start + self.nbytes])

    def tofile(self, file: Any) -> None:
        """Write the bytes to a file."""
        file.write(self.tobytes())

    def _read(self) -> NDArray[Any]:
        shape, dtype = self.shape.numpy(), self.dtype.numpy()
        if not self.size:
            return np.empty(shape, dtype)
        is_packed = self.dtype.bitwidth == _HALF_BYTE
        stored = np.dtype(np.uint8) if is_packed else np.dtype(dtype).newbyteorder("<")
        count = self.nbytes if is_packed else self.size
        values = np.frombuffer(self._data, stored, count, self.offset or 0)
        if is_packed:  # the first of two in the lower half
            values = np.stack((values & 0x0F, values >> 4), axis=-1).reshape(-1)[: self.size].view(dtype)
        return values.reshape(shape)


def read_model(bundle: Bundle) -> ir.Model:
    """A bundle's graph; its external initializers are `MappedTensor`s.

    Raises:
        BundleError: the graph is refused by the gate or by onnx-ir.
        IntegrityError: the bundle was replaced or changed since it was opened.
    """
    import onnx

    content = read_graph(bundle)
    try:
        model = ir.from_proto(onnx.ModelProto.FromString(content))
    except CodegenEdgeError:
        raise
    # protobuf and onnx-ir share no base: DecodeError, SerdeError, ValueError, OverflowError, AssertionError, …
    except Exception as exc:
        raise BundleError(f"{bundle.model_path} is no graph that can be read: {' '.join(str(exc).split())}") from exc
    assert isinstance(model, ir.Model)
    with bundle.reading():
        data = _mapped(bundle)
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = MappedTensor(value.const_value, data)
        _check_shape(value, bundle)
    return model


def _check_shape(value: ir.Value, bundle: Bundle) -> None:
    """Raise BundleError where the graph says another shape of an initializer than the tensor itself."""
    stated, tensor = value.shape, value.const_value
    if stated is None or tensor is None:
        return
    if not stated.is_static() or stated.numpy() != tensor.shape.numpy():
        name = str(value.name)[:80]
        raise BundleError(f"{bundle.model_path} is refused: {name} is {tensor.shape} as a tensor, {stated} as a value")


@contextmanager
def graph_of_an_export(bundle: Bundle) -> Iterator[None]:
    """Change the bundle's graph in the `with` block; where that fails the graph is no export's: BundleError."""
    try:
        yield
    except (CodegenEdgeError, MemoryError):
        raise
    except Exception as exc:
        reason = " ".join(f"{type(exc).__name__} {exc}".split())
        raise BundleError(f"{bundle.model_path} is not a graph as an export makes it ({reason})") from exc


def session_source(bundle: Bundle, model: ir.Model) -> tuple[bytes, Path]:
    """A changed graph of the bundle and the folder of its weights, as `open_session` takes them.

    onnxruntime follows no link out of that folder, and the cache of the hub is made of links: the graph then names the
    file itself. Which file that is was checked, and is compared again by `Bundle.reading`.
    """
    proto = ir.to_proto(model)
    data = bundle.at(contract.WEIGHTS_FILE)
    if data.is_symlink():
        data = Path(os.path.realpath(data))
        for tensor in proto.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = data.name
    return bytes(proto.SerializeToString()), data.parent


def _mapped(bundle: Bundle) -> mmap.mmap | bytes:
    with bundle.at(contract.WEIGHTS_FILE).open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return b""  # nothing can be mapped of an empty file
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
