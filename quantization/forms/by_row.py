"""A matrix in 8 bits per column, before a MatMulInteger whose activations are rounded in 8 bits per row.

Every token has a scale of its own, so what a token becomes does not depend on the tokens beside it, and the sums are of
integers, which no order of addition changes. (DynamicQuantizeMatMul, which did this before, takes one scale for all
rows: a neighbour moved a row's result by half its size.)

Weights are unsigned where a bundle may run anywhere: on x86 processors without VNNI onnxruntime's kernel for signed
ones adds pairs of products in 16 bits, which saturate (onnxruntime issue 6004). With VNNI it does not, and is faster
by far; a bundle made for such processors has signed weights, and runs on no other. Both give the same sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from codegen_edge.bundle.weights import Stored, Weight, new_initializer
from codegen_edge.quantization.blockwise import usable
from codegen_edge.quantization.forms import allocate
from codegen_edge.quantization.matrices import Matrix, replace_matrix
from codegen_edge.quantization.methods import SecondMoment

_ZERO_POINT, _LARGEST = 128, 127
_LEAST_SCALE = 1e-12  # of a row of zeros


@dataclass(frozen=True, slots=True)
class ByRow:
    """One scale for each output of a linear layer, and one for each token; the plan's matrices share an instance.

    Attributes:
        label: for the report.
        is_signed: whether codes are signed integers around 0, and not unsigned ones around 128.
        rounded: codes and scales of activations by the name of what they were; two matrices may read the same ones.
    """

    label: str = "int8 per column, activations int8 per row"
    is_signed: bool = False
    rounded: dict[str, tuple[ir.Value, ir.Value]] = field(default_factory=dict)

    def check(self, matrix: Matrix) -> None:
        """Every linear layer fits."""

    def rewrite(self, graph: ir.Graph, matrix: Matrix) -> tuple[ir.Value, ...]:
        """Replace the matrix by codes [K, N] and scales [N]."""
        rows, columns = matrix.rows, matrix.columns
        dtype = ir.DataType.INT8 if self.is_signed else ir.DataType.UINT8
        codes = new_initializer(graph, f"{matrix.name}.codes", [columns, rows], dtype)
        scales = new_initializer(graph, f"{matrix.name}.scales", [rows], ir.DataType.FLOAT)
        activations = matrix.node.inputs[0]
        assert activations is not None
        assert activations.name is not None
        if activations.name not in self.rounded:
            self.rounded[activations.name] = _rounded(graph, matrix.node, activations)
        rounded, row_scales = self.rounded[activations.name]
        zero = own_zero = _constant(graph, "by_row.zero_point", np.array(_ZERO_POINT, np.uint8))
        if self.is_signed:
            own_zero = _constant(graph, "by_row.signed_zero_point", np.array(0, np.int8))
        nodes = _Chain(graph, matrix.node, matrix.name)
        sums = nodes.add("MatMulInteger", [rounded, codes, zero, own_zero], ir.DataType.INT32)
        floats = nodes.add("Cast", [sums], ir.DataType.FLOAT, to=ir.DataType.FLOAT)
        scaled = nodes.add("Mul", [floats, scales], ir.DataType.FLOAT)
        if matrix.bias is None:
            replace_matrix(matrix, ir.node("Mul", [scaled, row_scales], name=f"{matrix.name}.ByRow"))
        else:
            product = nodes.add("Mul", [scaled, row_scales], ir.DataType.FLOAT, label="RowScale")
            replace_matrix(matrix, ir.node("Add", [product, matrix.bias], name=f"{matrix.name}.ByRow"))
        return codes, scales

    def encoder(self, matrix: Matrix, values: Sequence[ir.Value], second_moment: SecondMoment) -> _Encoder:
        """What makes codes and scales."""
        return _Encoder(matrix, values, 0 if self.is_signed else _ZERO_POINT)


class _Encoder:
    def __init__(self, matrix: Matrix, values: Sequence[ir.Value], zero_point: int) -> None:
        self._matrix, self._zero_point = matrix, zero_point
        self._codes, self._scales = allocate(values)

    def encode(self, rows: Weight, place: slice) -> Weight:
        """Round some rows to the nearest codes."""
        scales = usable(np.abs(rows).max(axis=1) / np.float32(_LARGEST))
        self._scales[place] = scales
        rounded = np.clip(np.rint(rows / scales[:, None]), -_LARGEST, _LARGEST)
        self._matrix.rows_of(self._codes, place)[...] = rounded + self._zero_point
        dequantized: Weight = rounded * scales[:, None]
        return dequantized

    def arrays(self) -> Sequence[Stored]:
        """Codes and scales."""
        return [self._codes, self._scales]


class _Chain:
    """Adds nodes before one that is there, each with a name of its own."""

    def __init__(self, graph: ir.Graph, before: ir.Node, name: str) -> None:
        self._graph, self._before, self._name = graph, before, name

    def add(
        self, operator: str, inputs: Sequence[ir.Value], dtype: ir.DataType, *, label: str = "", **attributes: int
    ) -> ir.Value:
        """Add a node; its output, of a shape that is not known here."""
        node = ir.node(operator, list(inputs), attributes, name=f"{self._name}.{label or operator}")
        output = node.outputs[0]
        output.name, output.type = f"{self._name}.{label or operator}.output", ir.TensorType(dtype)
        self._graph.insert_before(self._before, node)
        return output


def _rounded(graph: ir.Graph, before: ir.Node, activations: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Codes uint8 [..., K] and scales float32 [..., 1] of activations: round(x / scale) + 128, scale = max|x| / 127."""
    nodes = _Chain(graph, before, f"{activations.name}.rows")
    magnitudes = nodes.add("Abs", [activations], ir.DataType.FLOAT)
    axes = _constant(graph, "by_row.axes", np.array([-1], np.int64))
    largest = nodes.add("ReduceMax", [magnitudes, axes], ir.DataType.FLOAT, keepdims=1)
    share = _constant(graph, "by_row.share", np.array(1 / _LARGEST, np.float32))
    least = _constant(graph, "by_row.least_scale", np.array(_LEAST_SCALE, np.float32))
    scales = nodes.add("Max", [nodes.add("Mul", [largest, share], ir.DataType.FLOAT), least], ir.DataType.FLOAT)
    steps = nodes.add("Round", [nodes.add("Div", [activations, scales], ir.DataType.FLOAT)], ir.DataType.FLOAT)
    zero = _constant(graph, "by_row.zero", np.array(_ZERO_POINT, np.float32))
    shifted = nodes.add("Add", [steps, zero], ir.DataType.FLOAT)
    return nodes.add("Cast", [shifted], ir.DataType.UINT8, to=ir.DataType.UINT8), scales


def _constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    if name not in graph.initializers:
        value = ir.Value(
            name=name, shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.from_numpy(array.dtype))
        )
        value.const_value = ir.tensor(array, name=name)
        graph.register_initializer(value)
    return graph.initializers[name]
