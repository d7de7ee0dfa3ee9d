"""A matrix in codes behind a DequantizeLinear: ONNX's own operators, which TensorRT builds engines of.

TensorRT wants symmetric codes, signed, with positive scales, and blocks that divide the rows
(https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html). ONNX Runtime
computes the same graph, which is how it is proved without a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from codegen_edge.errors import InvalidInputError
from codegen_edge.graph_io import Stored, Weight, WeightGroup, new_initializer
from codegen_edge.quantization.blockwise import row_pieces
from codegen_edge.quantization.matrices import Matrix
from codegen_edge.quantization.methods import find_method
from codegen_edge.quantization.report import ErrorMeter
from codegen_edge.quantization.schemes import Choice, SchemeOptions

BLOCK_SIZE = 128
_DTYPES = {8: ir.DataType.INT8, 4: ir.DataType.INT4}


def rewrite_matrix(graph: ir.Graph, matrix: Matrix, choice: Choice, options: SchemeOptions) -> WeightGroup:
    """Replace a linear layer's weight [K, N] by DequantizeLinear(codes [K, N], scales [K / block_size, N]).

    Args:
        graph: changed in place; opset 21 or later, where DequantizeLinear knows blocks.
        matrix: of the graph, no embedding.
        choice: how it is quantized; its grid is symmetric.
        options: for the calibration, asked for when the matrix is made, and who is told of it then.
    """
    if not choice.grid.is_symmetric:
        raise InvalidInputError("codes for TensorRT are symmetric: it takes no zero points")
    grid = replace(choice.grid, has_signed_scales=False)
    if matrix.columns % grid.block_size:
        raise InvalidInputError(
            f"block_size {grid.block_size} does not divide the {matrix.columns} weights of a row of {matrix.name}"
        )
    blocks = grid.num_blocks(matrix.columns)
    codes = new_initializer(graph, f"{matrix.name}.codes", [matrix.columns, matrix.rows], _DTYPES[grid.bits])
    scales = new_initializer(graph, f"{matrix.name}.scales", [blocks, matrix.rows], ir.DataType.FLOAT)
    node = ir.node(
        "DequantizeLinear",
        [codes, scales],
        {"axis": 0, "block_size": grid.block_size},
        name=f"{matrix.name}.DequantizeLinear",
    )
    node.outputs[0].type, node.outputs[0].shape = matrix.weight.type, matrix.weight.shape
    graph.insert_before(matrix.node, node)
    ir.convenience.replace_all_uses_with(matrix.weight, node.outputs[0])
    graph.initializers.pop(matrix.name)

    def make(weight: Weight) -> Sequence[Stored]:
        quantize = find_method(choice.method)(grid, options.second_moment(matrix.name))
        signed = np.empty((matrix.columns, matrix.rows), np.int8)
        made_scales = np.empty((blocks, matrix.rows), np.float32)
        meter = ErrorMeter(matrix)
        for piece in row_pieces(matrix.rows, matrix.columns):
            by_row = np.ascontiguousarray(matrix.rows_of(weight, piece))
            quantized = quantize(by_row)
            matrix.rows_of(signed, piece)[...] = quantized.codes.reshape(by_row.shape).astype(np.int16) - grid.middle
            made_scales[:, piece] = quantized.scales.T
            dequantized = quantized.dequantized()
            meter.add(by_row, dequantized)
            options.on_rows(matrix, piece.start, by_row, dequantized)
        size_bytes = signed.size * grid.bits // 8 + made_scales.nbytes
        options.on_made(meter.report(form=choice.form, reason=choice.reason, size_bytes=size_bytes))
        return [signed.astype(_DTYPES[grid.bits].numpy(), copy=False), made_scales]

    return WeightGroup(source=matrix.name, values=(codes, scales), make=make)
