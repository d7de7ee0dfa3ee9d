"""Streaming a checkpoint's weights into a graph's external-data file, one tensor at a time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import onnx_ir as ir
import torch

from codegen_edge import contract
from codegen_edge.bundle import FileRecord
from codegen_edge.errors import NumericsError
from codegen_edge.exporter.checkpoint import Checkpoint
from codegen_edge.exporter.layout import graph_tensor
from codegen_edge.exporter.targets import TargetGraph
from codegen_edge.storage import require_free_space, storage_errors

_ALIGNMENT_BYTES = 4096  # a page, so that a runtime can map each tensor where it lies
_SLACK_BYTES = 16 * 1024 * 1024  # room for the graph, the tokenizer and the other small files

Progress = Callable[[int, int], None]
"""Called with the bytes that are done and the bytes in all."""


def write_weights(
    checkpoint: Checkpoint, graph: TargetGraph, folder: Path, on_progress: Progress | None = None
) -> FileRecord:
    """Write every weight of `graph` and point its initializers at the file.

    Memory: the stored tensor (mapped) and its float32 copy, of one tensor at a time.

    Args:
        checkpoint: gives the tensors that `graph.computed` does not.
        graph: its initializers without values are filled, in place.
        folder: the bundle; the file goes to `contract.WEIGHTS_FILE`.
        on_progress: called after every tensor.

    Returns:
        Size and hash of the file.

    Raises:
        NumericsError: a weight is NaN or infinite; the tensor is named.
        StorageError: the disk is full or the file cannot be written.
    """
    path = folder / contract.WEIGHTS_FILE
    missing = [value for value in graph.model.graph.initializers.values() if _lacks_data(value)]
    total_bytes = sum(_size_bytes(value) for value in missing)
    require_free_space(folder, total_bytes + _SLACK_BYTES)
    with storage_errors(path), path.open("wb") as file:
        data = _DataFile(file)
        for value in missing:
            assert value.name is not None
            tensor = _tensor_of(value.name, checkpoint, graph)
            assert value.shape == ir.Shape(tensor.shape), value.name
            offset, length = data.append(tensor)
            value.const_value = ir.ExternalTensor(
                location=path.name,
                offset=offset,
                length=length,
                dtype=ir.DataType.FLOAT,
                shape=ir.Shape(tensor.shape),
                name=value.name,
                base_dir=path.parent,
            )
            if on_progress is not None:
                on_progress(data.size_bytes, total_bytes)
        file.flush()
        os.fsync(file.fileno())
    return FileRecord(size_bytes=data.size_bytes, sha256=data.digest.hexdigest())


class _DataFile:
    """Appends tensors, each on a page of its own, and hashes what it writes on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self.size_bytes = 0
        self.digest = hashlib.sha256()
        self._file = file

    def append(self, tensor: torch.Tensor) -> tuple[int, int]:
        """Write a tensor; return its offset and length in bytes."""
        self._write(memoryview(bytes(-self.size_bytes % _ALIGNMENT_BYTES)))
        offset = self.size_bytes
        self._write(tensor.numpy().reshape(-1).view("uint8").data)
        return offset, self.size_bytes - offset

    def _write(self, content: memoryview) -> None:
        self._file.write(content)
        self.digest.update(content)
        self.size_bytes += len(content)


def _tensor_of(name: str, checkpoint: Checkpoint, graph: TargetGraph) -> torch.Tensor:
    if name in graph.computed:
        computed: torch.Tensor = graph.computed[name]
        return computed
    weight = checkpoint.read(name)
    # min and max carry NaN and infinity along, without a mask as large as the tensor.
    if not torch.isfinite(torch.stack(weight.aminmax())).all():
        raise NumericsError(f"{name} holds NaN or infinity; the checkpoint is broken")
    return graph_tensor(name, weight, is_transposed=name in graph.transposed)


def _lacks_data(value: ir.Value) -> bool:
    """Whether an initializer is a parameter of the traced module: those have fake values."""
    return value.dtype == ir.DataType.FLOAT and value.shape is not None and len(value.shape) > 0


def _size_bytes(value: ir.Value) -> int:
    assert value.shape is not None
    count = 1
    for dim in value.shape.numpy():
        count *= dim
    return count * 4  # float32
