"""A matrix in codes behind a DequantizeLinear: ONNX's own operators, which TensorRT builds engines of.

TensorRT wants symmetric codes, signed, with positive scales, and blocks that divide the rows
(https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html). ONNX Runtime
computes the same graph, which is how it is proved without a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from codegen_edge.bundle.weights import Stored, Weight, new_initializer
from codegen_edge.errors import InvalidInputError
from codegen_edge.quantization.blockwise import Grid
from codegen_edge.quantization.forms import block_label, require_fitting
from codegen_edge.quantization.matrices import Matrix, put_before
from codegen_edge.quantization.methods import METHODS, QuantizeRows, SecondMoment

BLOCK_SIZE = 128
_DTYPES = {8: ir.DataType.INT8, 4: ir.DataType.INT4}


@dataclass(frozen=True, slots=True, kw_only=True)
class DequantizeLinear:
    """Codes [K, N] and scales [K / block_size, N] behind a DequantizeLinear; opset 21, where it knows blocks.

    Attributes:
        grid: of the codes; symmetric.
        method: how they are chosen.
    """

    grid: Grid
    method: str

    @property
    def label(self) -> str:
        """For the report."""
        return block_label(self.grid, self.method)

    def check(self, matrix: Matrix) -> None:
        """Raise InvalidInputError for zero points, and for blocks that do not divide the rows."""
        require_fitting(matrix, self.grid)
        if not self.grid.is_symmetric:
            raise InvalidInputError("codes for TensorRT are symmetric: it takes no zero points")
        if matrix.columns % self.grid.block_size:
            raise InvalidInputError(
                f"block_size {self.grid.block_size} does not divide the {matrix.columns} weights of a row of "
                f"{matrix.name}"
            )

    def rewrite(self, graph: ir.Graph, matrix: Matrix) -> tuple[ir.Value, ...]:
        """Put codes, scales and the operator before the MatMul."""
        grid = self.grid
        shape, scale_shape = [matrix.columns, matrix.rows], [grid.num_blocks(matrix.columns), matrix.rows]
        codes = new_initializer(graph, f"{matrix.name}.codes", shape, _DTYPES[grid.bits])
        scales = new_initializer(graph, f"{matrix.name}.scales", scale_shape, ir.DataType.FLOAT)
        attributes = {"axis": 0, "block_size": grid.block_size}
        name = f"{matrix.name}.DequantizeLinear"
        put_before(matrix, ir.node("DequantizeLinear", [codes, scales], attributes, name=name))
        return codes, scales

    def encoder(self, matrix: Matrix, values: Sequence[ir.Value], second_moment: SecondMoment) -> _Encoder:
        """What makes codes and scales."""
        grid = replace(self.grid, has_signed_scales=False)
        return _Encoder(METHODS.find(self.method)(grid, second_moment(matrix.name)), grid, matrix, values)


class _Encoder:
    def __init__(self, quantize: QuantizeRows, grid: Grid, matrix: Matrix, values: Sequence[ir.Value]) -> None:
        self._quantize, self._grid, self._matrix = quantize, grid, matrix
        blocks = grid.num_blocks(matrix.columns)
        self._codes = np.empty((matrix.columns, matrix.rows), np.int8)  # in 4 bits when all of them are there
        self._scales = np.empty((blocks, matrix.rows), np.float32)

    def encode(self, rows: Weight, place: slice) -> Weight:
        """Store the codes of some rows."""
        quantized = self._quantize(np.ascontiguousarray(rows))
        codes = quantized.codes.reshape(rows.shape).astype(np.int16) - self._grid.middle
        self._matrix.rows_of(self._codes, place)[...] = codes
        self._scales[:, place] = quantized.scales.T
        return quantized.dequantized()

    def arrays(self) -> Sequence[Stored]:
        """Codes and scales."""
        return [self._codes.astype(_DTYPES[self._grid.bits].numpy(), copy=False), self._scales]
