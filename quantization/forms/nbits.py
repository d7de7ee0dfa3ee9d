"""A matrix in codes inside a graph: MatMulNBits for linear layers, GatherBlockQuantized for the embedding table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from codegen_edge.bundle.weights import Stored, Weight, new_initializer
from codegen_edge.quantization.blockwise import Grid
from codegen_edge.quantization.forms import allocate, block_label, require_fitting
from codegen_edge.quantization.matrices import Matrix, replace_matrix
from codegen_edge.quantization.methods import METHODS, QuantizeRows, SecondMoment

_ACCURACY_LEVEL = 4  # activations are rounded to int8 a block at a time: the integer kernels, which are the fast ones
_DOMAIN = "com.microsoft"


@dataclass(frozen=True, slots=True, kw_only=True)
class NBits:
    """Codes in ONNX Runtime's own operators.

    Attributes:
        grid: of the codes.
        method: how they are chosen.
    """

    grid: Grid
    method: str

    @property
    def label(self) -> str:
        """For the report."""
        return block_label(self.grid, self.method)

    def check(self, matrix: Matrix) -> None:
        """Raise InvalidInputError where a block is longer than a row."""
        require_fitting(matrix, self.grid)

    def rewrite(self, graph: ir.Graph, matrix: Matrix) -> tuple[ir.Value, ...]:
        """Replace the matrix by codes, scales and, where they are stored, zero points."""
        grid, rows, blocks = self.grid, matrix.rows, self.grid.num_blocks(matrix.columns)
        packed_block = grid.block_size * grid.bits // 8
        is_embedding = matrix.kind == "embedding"
        code_shape = [rows, blocks * packed_block] if is_embedding else [rows, blocks, packed_block]
        if is_embedding and matrix.columns % grid.block_size:
            # GatherBlockQuantized takes the row's length from the codes: they cannot be padded.
            code_shape = [rows, matrix.columns * grid.bits // 8]
        codes = new_initializer(graph, f"{matrix.name}.codes", code_shape, ir.DataType.UINT8)
        scales = new_initializer(graph, f"{matrix.name}.scales", [rows, blocks], ir.DataType.FLOAT)
        values = [codes, scales]
        # For codes without zero points GatherBlockQuantized takes 128 on the CPU, and in some releases 0 on CUDA
        # (onnxruntime issue 31692): the table's are always written.
        if not grid.is_symmetric or is_embedding:
            shape = [rows, -(-blocks * grid.bits // 8)]
            values.append(new_initializer(graph, f"{matrix.name}.zero_points", shape, ir.DataType.UINT8))
        graph.opset_imports.setdefault(_DOMAIN, 1)
        replace_matrix(matrix, _node(matrix, grid, values))
        return tuple(values)

    def encoder(self, matrix: Matrix, values: Sequence[ir.Value], second_moment: SecondMoment) -> _Encoder:
        """What makes codes, scales and zero points."""
        return _Encoder(METHODS.find(self.method)(self.grid, second_moment(matrix.name)), values)


class _Encoder:
    def __init__(self, quantize: QuantizeRows, values: Sequence[ir.Value]) -> None:
        self._quantize = quantize
        self._codes, self._scales, *self._zero_points = allocate(values)

    def encode(self, rows: Weight, place: slice) -> Weight:
        """Store the codes of some rows."""
        quantized = self._quantize(np.ascontiguousarray(rows))
        code_shape = self._codes.shape[1:]
        packed = quantized.packed_codes().reshape(len(rows), -1)[:, : math.prod(code_shape)]
        self._codes[place] = packed.reshape(-1, *code_shape)
        self._scales[place] = quantized.scales
        for zero_points in self._zero_points:
            zero_points[place] = quantized.packed_zero_points()
        return quantized.dequantized()

    def arrays(self) -> Sequence[Stored]:
        """Codes, scales, zero points."""
        return [self._codes, self._scales, *self._zero_points]


def _node(matrix: Matrix, grid: Grid, values: Sequence[ir.Value]) -> ir.Node:
    codes, scales, zero_points = (*values, None)[:3]
    if matrix.kind == "embedding":
        inputs = [codes, matrix.node.inputs[1], scales, zero_points]
        attributes = {"bits": grid.bits, "block_size": grid.block_size, "gather_axis": 0, "quantize_axis": 1}
        operator = "GatherBlockQuantized"
    else:
        inputs = [matrix.node.inputs[0], codes, scales, zero_points, None, matrix.bias]
        attributes = {
            "K": matrix.columns,
            "N": matrix.rows,
            "bits": grid.bits,
            "block_size": grid.block_size,
            "accuracy_level": _ACCURACY_LEVEL,
        }
        operator = "MatMulNBits"
    while inputs[-1] is None:
        inputs.pop()
    return ir.node(operator, inputs, attributes, domain=_DOMAIN, name=f"{matrix.name}.{operator}")
