"""Bundles that were altered, with a manifest that vouches for what was altered: hashes are no help against those."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from codegen_edge.bundle import contract

ChangeGraph = Callable[[onnx.ModelProto], object]


def vouch(folder: Path, change: Callable[[dict[str, Any]], object] = lambda fields: None) -> None:
    """Write the sizes and hashes of the files as they are into the manifest, and whatever else `change` does."""
    path = folder / "bundle.json"
    fields = json.loads(path.read_text())
    for name in fields["files"]:
        content = (folder / name).read_bytes()
        fields["files"][name] = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    change(fields)
    path.write_text(json.dumps(fields))


def alter_graph(folder: Path, change: ChangeGraph) -> None:
    """Change the graph of a bundle that vouches for it afterwards."""
    path = folder / contract.MODEL_FILE
    model = onnx.load(str(path), load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())
    vouch(folder)


def write_graph_bytes(folder: Path, content: bytes) -> None:
    """Put other bytes in the graph's place, vouched for."""
    (folder / contract.MODEL_FILE).write_bytes(content)
    vouch(folder)


def weight_of(model: onnx.ModelProto, name: str = "lm_head.weight") -> onnx.TensorProto:
    """An initializer by its name."""
    found: onnx.TensorProto = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    return found


def set_entry(tensor: onnx.TensorProto, key: str, value: str) -> None:
    """Set an entry of a tensor's external data."""
    for entry in tensor.external_data:
        if entry.key == key:
            entry.value = value
            return
    tensor.external_data.add(key=key, value=value)


def drop_entry(tensor: onnx.TensorProto, key: str) -> None:
    """Remove an entry of a tensor's external data."""
    kept = [(entry.key, entry.value) for entry in tensor.external_data if entry.key != key]
    del tensor.external_data[:]
    for name, value in kept:
        tensor.external_data.add(key=name, value=value)


def external(name: str = "elsewhere") -> onnx.TensorProto:
    """A tensor that lies in the data file, for places where none may."""
    tensor = onnx.TensorProto(
        name=name, data_type=onnx.TensorProto.FLOAT, dims=[16], data_location=onnx.TensorProto.EXTERNAL
    )
    for key, value in (("location", "model.onnx_data"), ("offset", "0"), ("length", "64")):
        tensor.external_data.add(key=key, value=value)
    return tensor
