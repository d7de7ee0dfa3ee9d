"""A graph's file and its data file: weights are made and written one at a time, whoever makes them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from codegen_edge.bundle import Bundle, FileRecord, contract
from codegen_edge.bundle.graph_file import read_model
from codegen_edge.bundle.storage import require_free_space, storage_errors
from codegen_edge.errors import BundleError, NumericsError

Weight = NDArray[np.float32]
Stored = NDArray[Any]  # whatever dtype an initializer has

ReadWeight = Callable[[str], Weight]
"""A weight by its name, float32 in the graph's layout; raises NumericsError where it is not finite."""

Progress = Callable[[int, int], None]
"""Called with the bytes that are written and the bytes in all."""

_INT4 = ir.DataType.INT4.numpy()
_PAGE_BYTES = 4096  # so that a runtime can map a large tensor where it lies
_SMALL_TENSOR_BYTES = 64 * 1024  # smaller ones are read, not mapped: a page each would be mostly padding
_SMALL_ALIGNMENT_BYTES = 64  # a cache line
_SLACK_BYTES = 16 * 1024 * 1024  # room for the graph, the tokenizer and the other small files
_IR_VERSION = 10  # what opset 21 came with; older runtimes refuse newer ones


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightGroup:
    """Initializers that are made of one weight.

    Attributes:
        source: name of the weight.
        values: the graph's initializers, with shape and dtype.
        make: from the weight to one array for each of `values`.
    """

    source: str
    values: tuple[ir.Value, ...]
    make: Callable[[Weight], Sequence[Stored]]

    @property
    def size_bytes(self) -> int:
        """Of all arrays that `make` gives."""
        return sum(size_bytes_of(value) for value in self.values)


RewriteGraph = Callable[[ir.Model], list[WeightGroup]]
"""Replaces weights of a graph in place by initializers of its own, and says how those are made."""


def load_graph(bundle: Bundle) -> tuple[ir.Model, ReadWeight]:
    """A bundle's graph, and how its initializers are read: mapped, one at a time, in the dtype that they are stored in.

    Reading raises NumericsError where a float initializer holds NaN or infinity.

    Raises:
        BundleError: the graph is corrupt, or a tensor of it lies where none may lie; as `read_model`.
    """
    model = read_model(bundle)
    stored = {value.name: value.const_value for value in model.graph.initializers.values()}

    def read(name: str) -> Weight:
        tensor = stored[name]
        assert tensor is not None
        return require_finite(name, np.asarray(tensor.numpy()))

    return model, read


def require_finite(name: str, weight: Weight) -> Weight:
    """`weight` itself; raise NumericsError where it holds NaN or infinity. Integers are always finite."""
    # min and max carry NaN and infinity along, without a mask as large as the tensor.
    if weight.dtype.kind == "f" and not np.isfinite((weight.min(initial=0), weight.max(initial=0))).all():
        raise NumericsError(f"{name} holds NaN or infinity; what it was read from is broken")
    return weight


def is_weight(value: ir.Value) -> bool:
    """Whether an initializer lies in the data file: every float32 tensor with an axis does."""
    return value.dtype == ir.DataType.FLOAT and value.shape is not None and len(value.shape) > 0


def size_bytes_of(value: ir.Value) -> int:
    """Bytes of an initializer, from its shape and dtype."""
    assert value.shape is not None
    assert value.dtype is not None
    count = int(np.prod(value.shape.numpy(), dtype=np.int64))
    return -(-count * value.dtype.bitwidth // 8)


def new_initializer(graph: ir.Graph, name: str, shape: Sequence[int], dtype: ir.DataType) -> ir.Value:
    """Add an initializer whose data a WeightGroup makes later."""
    value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
    value.const_value = ir.LazyTensor(_not_made, dtype=dtype, shape=ir.Shape(shape), name=name)
    graph.register_initializer(value)
    return value


def _not_made() -> ir.TensorProtocol:
    raise AssertionError("the initializer was not made yet")


def all_groups(model: ir.Model, rewritten: Sequence[WeightGroup]) -> list[WeightGroup]:
    """`rewritten`, and every other weight of the graph as it is, in the order of the graph's initializers."""
    by_value = {id(value): group for group in rewritten for value in group.values}
    groups: list[WeightGroup] = []
    for value in model.graph.initializers.values():
        group = by_value.get(id(value))
        if group is None and is_weight(value):
            assert value.name is not None
            group = WeightGroup(source=value.name, values=(value,), make=_unchanged)
        if group is not None and (not groups or groups[-1] is not group):
            groups.append(group)
    return groups


def _unchanged(weight: Weight) -> tuple[Stored]:
    return (weight,)


def write_weights(
    groups: Iterable[WeightGroup], read: ReadWeight, folder: Path, on_progress: Progress | None = None
) -> FileRecord:
    """Make every weight, write it, and point the graph's initializers at the file.

    Memory: one weight, and what is made of it.

    Args:
        groups: what is written, in this order.
        read: gives the weights.
        folder: the bundle; the file goes to `contract.WEIGHTS_FILE`, whose folder exists.
        on_progress: called after every weight.

    Returns:
        Size and hash of the file.

    Raises:
        NumericsError: from `read`; the tensor is named.
        StorageError: the disk is full or the file cannot be written.
    """
    groups = list(groups)
    path = folder / contract.WEIGHTS_FILE
    total_bytes = sum(group.size_bytes for group in groups)
    require_free_space(folder, total_bytes + _SLACK_BYTES)
    with storage_errors(path), path.open("wb") as file:
        data = _DataFile(file)
        for group in groups:
            arrays = group.make(read(group.source))
            for value, array in zip(group.values, arrays, strict=True):
                _store(data, value, array, path)
            if on_progress is not None:
                on_progress(data.size_bytes, total_bytes)
        file.flush()
        os.fsync(file.fileno())
    return FileRecord(size_bytes=data.size_bytes, sha256=data.digest.hexdigest())


def write_graph(model: ir.Model, folder: Path) -> None:
    """Write the graph's file, signed with our name and version.

    Raises:
        BundleError: the graph came from a bundle that no export made, and onnx-ir cannot write it.
    """
    model.producer_name = "codegen-edge"
    model.producer_version = importlib.metadata.version("codegen-edge")
    model.ir_version = _IR_VERSION
    model.graph.name = "codegen"
    try:
        content = ir.to_proto(model).SerializeToString(deterministic=True)
    except (OSError, MemoryError):
        raise
    # onnx-ir and protobuf share no base: SerdeError, EncodeError, ValueError, TypeError, UnicodeEncodeError, …
    except Exception as exc:
        reason = " ".join(str(exc.__cause__ or exc).split())
        raise BundleError(f"the graph cannot be written, it is not as an export makes it: {reason}") from exc
    (folder / contract.MODEL_FILE).write_bytes(content)


def _store(data: _DataFile, value: ir.Value, array: Stored, path: Path) -> None:
    assert value.name is not None
    assert value.dtype is not None
    assert value.shape == ir.Shape(array.shape), f"{value.name}: {value.shape} is not {array.shape}"
    assert value.dtype.numpy() == array.dtype, f"{value.name}: {value.dtype} is not {array.dtype}"
    offset, length = data.append(array)
    value.const_value = ir.ExternalTensor(
        location=path.name,
        offset=offset,
        length=length,
        dtype=value.dtype,
        shape=ir.Shape(array.shape),
        name=value.name,
        base_dir=path.parent,
    )


class _DataFile:
    """Appends tensors, each aligned, and hashes what it writes on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self.size_bytes = 0
        self.digest = hashlib.sha256()
        self._file = file

    def append(self, array: Stored) -> tuple[int, int]:
        """Write an array; return its offset and length in bytes."""
        if array.dtype == _INT4:  # two in a byte, the first in its lower half
            nibbles = np.ascontiguousarray(array).reshape(-1).view(np.uint8) & 0x0F
            nibbles = np.append(nibbles, np.zeros(len(nibbles) % 2, np.uint8))
            array = nibbles[0::2] | (nibbles[1::2] << 4)
        alignment = _PAGE_BYTES if array.nbytes >= _SMALL_TENSOR_BYTES else _SMALL_ALIGNMENT_BYTES
        self._write(memoryview(bytes(-self.size_bytes % alignment)))
        offset = self.size_bytes
        self._write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return offset, self.size_bytes - offset

    def _write(self, content: memoryview) -> None:
        self._file.write(content)
        self.digest.update(content)
        self.size_bytes += len(content)
