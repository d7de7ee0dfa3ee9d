"""The matrices of a graph: what can be quantized, and where it is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from codegen_edge.bundle import contract
from codegen_edge.errors import BundleError

MatrixKind = Literal["embedding", "linear", "lm_head"]

_Dtype = TypeVar("_Dtype", bound=np.generic)
_LM_HEAD = "lm_head.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """A weight and the nodes that use it.

    Attributes:
        name: of the weight.
        kind: the embedding table, a linear layer in a block, or the LM head.
        weight: the initializer: [V, K] of an embedding, [K, N] of the others.
        node: the Gather or MatMul.
        bias: the initializer that `add` adds, or None.
        add: the Add behind a MatMul with a bias.
    """

    name: str
    kind: MatrixKind
    weight: ir.Value
    node: ir.Node
    bias: ir.Value | None
    add: ir.Node | None

    @property
    def rows(self) -> int:
        """Outputs N, or the vocabulary V of an embedding."""
        return self._shape[0] if self.kind == "embedding" else self._shape[1]

    @property
    def columns(self) -> int:
        """Inputs K, or the width of an embedding; blocks lie along them."""
        return self._shape[1] if self.kind == "embedding" else self._shape[0]

    def rows_of(self, weight: NDArray[_Dtype], piece: slice) -> NDArray[_Dtype]:
        """Some rows [n, K] of an array in the weight's layout, a view."""
        return weight[piece] if self.kind == "embedding" else weight[:, piece].T

    @property
    def _shape(self) -> tuple[int, ...]:
        assert self.weight.shape is not None
        return tuple(int(dim) for dim in self.weight.shape.numpy())

    @property
    def output(self) -> ir.Value:
        """What the matrix computes, its bias included."""
        return (self.add or self.node).outputs[0]


def find_matrices(graph: ir.Graph) -> list[Matrix]:
    """Every float matrix of the graph, in the order of use.

    Raises:
        BundleError: there is none; the graph is quantized already.
    """
    matrices = []
    for node in graph:
        if node.op_type == "Gather" and _is_weight(node.inputs[0]):
            weight = node.inputs[0]
            assert weight is not None
            matrices.append(_matrix("embedding", weight, node, None, None))
        elif node.op_type == "MatMul" and _is_weight(node.inputs[1]):
            weight = node.inputs[1]
            assert weight is not None
            add = _bias_add(node)
            bias = None if add is None else next(value for value in add.inputs if _is_weight(value, rank=1))
            matrices.append(_matrix("lm_head" if weight.name == _LM_HEAD else "linear", weight, node, bias, add))
    if not matrices:
        raise BundleError("the graph has no float matrices: it is quantized already")
    return matrices


def quantizable(matrices: Sequence[Matrix], target: contract.Target) -> list[Matrix]:
    """Those that blocks of codes are for: TensorRT gathers rows of floats, so an embedding table stays as it is."""
    return [matrix for matrix in matrices if target == "ort" or matrix.kind != "embedding"]


def _matrix(kind: MatrixKind, weight: ir.Value, node: ir.Node, bias: ir.Value | None, add: ir.Node | None) -> Matrix:
    assert weight.name is not None
    return Matrix(name=weight.name, kind=kind, weight=weight, node=node, bias=bias, add=add)


def _is_weight(value: ir.Value | None, rank: int = 2) -> bool:
    return (
        value is not None
        and value.is_initializer()
        and value.dtype == ir.DataType.FLOAT
        and value.shape is not None
        and len(value.shape) == rank
    )


def _bias_add(node: ir.Node) -> ir.Node | None:
    usages = list(node.outputs[0].uses())
    if len(usages) != 1 or usages[0].node.op_type != "Add":
        return None
    add = usages[0].node
    return add if any(_is_weight(value, rank=1) for value in add.inputs) else None


def replace_matrix(matrix: Matrix, new: ir.Node) -> None:
    """Put `new` where the matrix's nodes are; its output takes the name, and the weight leaves the graph."""
    old, result = matrix.output, new.outputs[0]
    graph = matrix.node.graph
    assert isinstance(graph, ir.Graph)
    graph.insert_before(matrix.add or matrix.node, new)
    result.type, result.shape, name = old.type, old.shape, old.name
    ir.convenience.replace_all_uses_with(old, result, replace_graph_outputs=True)
    graph.remove([node for node in (matrix.add, matrix.node) if node is not None], safe=True)
    result.name = name
    _drop_unused(graph, matrix.weight)


def put_before(matrix: Matrix, new: ir.Node) -> None:
    """Put `new`, which computes the weight, before the matrix's node; the weight itself leaves the graph."""
    graph = matrix.node.graph
    assert isinstance(graph, ir.Graph)
    new.outputs[0].type, new.outputs[0].shape = matrix.weight.type, matrix.weight.shape
    graph.insert_before(matrix.node, new)
    ir.convenience.replace_all_uses_with(matrix.weight, new.outputs[0])
    graph.initializers.pop(matrix.name)


def _drop_unused(graph: ir.Graph, value: ir.Value) -> None:
    if not value.uses():
        assert value.name is not None
        graph.initializers.pop(value.name)
