"""A matrix in 8 bits a column before a DynamicQuantizeMatMul, which rounds activations to one scale at every step.

Weights are unsigned: on processors without VNNI onnxruntime's kernel for signed ones adds pairs of products in 16
bits, which saturate (onnxruntime issue 6004), and a bundle does not know where it will run. Signed ones of 7 bits,
which do not, were tried: they lost more and were no faster there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from codegen_edge.bundle.weights import Stored, Weight, new_initializer
from codegen_edge.quantization.blockwise import usable
from codegen_edge.quantization.forms import allocate
from codegen_edge.quantization.matrices import Matrix, replace_matrix
from codegen_edge.quantization.methods import SecondMoment

_ZERO_POINT = 128
_DOMAIN = "com.microsoft"
_OPERATOR = "DynamicQuantizeMatMul"


@dataclass(frozen=True, slots=True)
class DynamicColumns:
    """One scale for each output of a linear layer."""

    label: str = "int8 a column, activations int8"

    def check(self, matrix: Matrix) -> None:
        """Every linear layer fits."""

    def rewrite(self, graph: ir.Graph, matrix: Matrix) -> tuple[ir.Value, ...]:
        """Replace the matrix by codes [K, N], scales [N] and zero points [N]."""
        rows, columns = matrix.rows, matrix.columns
        codes = new_initializer(graph, f"{matrix.name}.codes", [columns, rows], ir.DataType.UINT8)
        scales = new_initializer(graph, f"{matrix.name}.scales", [rows], ir.DataType.FLOAT)
        zero_points = new_initializer(graph, f"{matrix.name}.zero_points", [rows], ir.DataType.UINT8)
        inputs = [matrix.node.inputs[0], codes, scales, zero_points]
        if matrix.bias is not None:
            inputs.append(matrix.bias)
        graph.opset_imports.setdefault(_DOMAIN, 1)
        replace_matrix(matrix, ir.node(_OPERATOR, inputs, domain=_DOMAIN, name=f"{matrix.name}.{_OPERATOR}"))
        return codes, scales, zero_points

    def encoder(self, matrix: Matrix, values: Sequence[ir.Value], second_moment: SecondMoment) -> _Encoder:
        """What makes codes, scales and zero points."""
        return _Encoder(matrix, values)


class _Encoder:
    def __init__(self, matrix: Matrix, values: Sequence[ir.Value]) -> None:
        self._matrix = matrix
        self._codes, self._scales, self._zero_points = allocate(values)
        self._zero_points[...] = _ZERO_POINT

    def encode(self, rows: Weight, place: slice) -> Weight:
        """Round some rows to the nearest codes."""
        scales = usable(np.abs(rows).max(axis=1) / np.float32(_ZERO_POINT - 1))
        self._scales[place] = scales
        rounded = np.clip(np.rint(rows / scales[:, None]), 1 - _ZERO_POINT, _ZERO_POINT - 1)
        self._matrix.rows_of(self._codes, place)[...] = rounded + _ZERO_POINT
        dequantized: Weight = rounded * scales[:, None]
        return dequantized

    def arrays(self) -> Sequence[Stored]:
        """Codes, scales, zero points."""
        return [self._codes, self._scales, self._zero_points]
