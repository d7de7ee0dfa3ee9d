"""From a graph that computes in float32 to one that computes in half precision, as GPUs want it.

Codes stay as they are; scales, biases, norms, tables, keys, values and everything between them become float16 or
bfloat16. Logits leave the graph as float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from codegen_edge.bundle import contract
from codegen_edge.bundle.weights import Stored, WeightGroup
from codegen_edge.errors import BundleError, NumericsError

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
# What has no kernel for half precision on a GPU.
_CPU_ONLY = {"DynamicQuantizeMatMul", "DynamicQuantizeLinear", "MatMulInteger"}
LOGITS_CAST = "logits.Cast"


def set_compute_dtype(model: ir.Model, compute: contract.Compute) -> list[WeightGroup]:
    """Make a graph compute in `compute`, in place.

    Args:
        model: as loaded from a bundle that computes in float32.
        compute: "fp32" leaves it as it is.

    Returns:
        How every initializer that lies in the data file is made anew, from itself.

    Raises:
        BundleError: an operator of the graph exists for the CPU only.
    """
    graph = model.graph
    for node in graph:
        if compute != "fp32" and node.op_type in _CPU_ONLY:
            raise BundleError(f"the graph has {node.op_type}, which computes on CPUs only: take int8, int4 or fp16")
    if compute != "fp32":
        dtype = ir.DataType[contract.DTYPE_NAMES[compute].upper()]
        _unwrap_stored_halves(graph)
        _retype(graph, dtype)
        _take_start(graph)
        _cast_logits(graph)
    groups = []
    for value in graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            assert value.name is not None
            groups.append(WeightGroup(source=value.name, values=(value,), make=_converter(value)))
        elif value.dtype is not None and value.const_value is not None and value.const_value.dtype != value.dtype:
            value.const_value = ir.tensor(value.const_value.numpy().astype(value.dtype.numpy()), name=value.name)
    return groups


def _unwrap_stored_halves(graph: ir.Graph) -> None:
    """Matrices of scheme fp16 lie behind a Cast to float32; what computes in half precision takes them as they are."""
    for node in list(graph):
        if node.op_type == "Cast" and node.inputs[0] is not None and node.inputs[0].is_initializer():
            ir.convenience.replace_all_uses_with(node.outputs[0], node.inputs[0])
            graph.remove(node, safe=True)


def _retype(graph: ir.Graph, dtype: ir.DataType) -> None:
    produced = (value for node in graph for value in node.outputs)
    for value in (*graph.inputs, *graph.initializers.values(), *produced):
        if value.dtype in _FLOATS:
            value.type = ir.TensorType(dtype)


def _take_start(graph: ir.Graph) -> None:
    """Replace num_logits_to_keep, of which Neg makes the start of a Slice, by that start."""
    keep = next((value for value in graph.inputs if value.name == contract.NUM_LOGITS_TO_KEEP), None)
    if keep is None:
        return
    (negation,) = (usage.node for usage in keep.uses())
    ir.convenience.replace_all_uses_with(negation.outputs[0], keep)
    graph.remove(negation, safe=True)
    graph.initializers.pop(contract.NUM_LOGITS_TO_KEEP)
    keep.name = contract.LOGITS_START
    keep.const_value = ir.tensor(np.zeros(1, np.int64), name=keep.name)
    graph.register_initializer(keep)


def _cast_logits(graph: ir.Graph) -> None:
    place = next(index for index, value in enumerate(graph.outputs) if value.name == contract.LOGITS)
    half = graph.outputs[place]
    half.name = f"{contract.LOGITS}.half"
    cast = ir.node("Cast", [half], {"to": ir.DataType.FLOAT}, name=LOGITS_CAST)
    cast.outputs[0].name = contract.LOGITS
    cast.outputs[0].shape = half.shape
    cast.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph.append(cast)
    graph.outputs[place] = cast.outputs[0]


def _converter(value: ir.Value) -> _Convert:
    assert value.name is not None
    assert value.dtype is not None
    return _Convert(value.name, value.dtype.numpy())


class _Convert:
    """From an initializer's content to the dtype that its value has now."""

    def __init__(self, name: str, dtype: np.dtype) -> None:
        self.name = name
        self.dtype = dtype

    def __call__(self, weight: NDArray[np.float32]) -> Sequence[Stored]:
        if weight.dtype == self.dtype:
            return [weight]
        if self.dtype == np.float16 and np.abs(weight).max(initial=0) > np.finfo(np.float16).max:
            raise NumericsError(
                f"{self.name} holds a value beyond float16's 65504; bf16 holds it", hint="--compute bf16"
            )
        return [weight.astype(self.dtype)]
