"""A matrix in codes inside a graph: MatMulNBits for linear layers, GatherBlockQuantized for the embedding table."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from codegen_edge.errors import InvalidInputError
from codegen_edge.graph_io import Stored, Weight, WeightGroup, new_initializer
from codegen_edge.quantization.blockwise import Grid, row_pieces
from codegen_edge.quantization.matrices import Matrix, replace_matrix
from codegen_edge.quantization.methods import find_method
from codegen_edge.quantization.report import ErrorMeter
from codegen_edge.quantization.schemes import Choice, SchemeOptions

_ACCURACY_LEVEL = 4  # activations are rounded to int8 a block at a time: the integer kernels, which are the fast ones
_DOMAIN = "com.microsoft"


def require_fitting(matrix: Matrix, grid: Grid) -> None:
    """Raise InvalidInputError when a block is longer than the matrix's rows, which would be mostly padding."""
    if grid.block_size > matrix.columns:
        raise InvalidInputError(
            f"block_size {grid.block_size} does not fit {matrix.name}, whose rows have {matrix.columns} weights"
        )


def rewrite_matrix(graph: ir.Graph, matrix: Matrix, choice: Choice, options: SchemeOptions) -> WeightGroup:
    """Replace a matrix by its codes, scales and zero points.

    Args:
        graph: changed in place.
        matrix: of the graph.
        choice: how it is quantized.
        options: for the calibration, asked for when the matrix is made, and who is told of it then.

    Returns:
        How the new initializers are made of the weight: some rows at a time, so that beside the weight there are only
        its codes.
    """
    grid = choice.grid
    require_fitting(matrix, grid)
    rows, blocks = matrix.rows, grid.num_blocks(matrix.columns)
    packed_block = grid.block_size * grid.bits // 8
    is_embedding = matrix.kind == "embedding"
    code_shape = [rows, blocks * packed_block] if is_embedding else [rows, blocks, packed_block]
    if is_embedding and matrix.columns % grid.block_size:
        # GatherBlockQuantized takes the row's length from the codes: they cannot be padded.
        code_shape = [rows, matrix.columns * grid.bits // 8]
    codes = new_initializer(graph, f"{matrix.name}.codes", code_shape, ir.DataType.UINT8)
    scales = new_initializer(graph, f"{matrix.name}.scales", [rows, blocks], ir.DataType.FLOAT)
    values = [codes, scales]
    zero_points = None
    # For codes without zero points GatherBlockQuantized takes 128 on the CPU, and in some releases 0 on CUDA
    # (onnxruntime issue 31692): the table's are always written.
    if not grid.is_symmetric or is_embedding:
        shape = [rows, -(-blocks * grid.bits // 8)]
        zero_points = new_initializer(graph, f"{matrix.name}.zero_points", shape, ir.DataType.UINT8)
        values.append(zero_points)
    replace_matrix(matrix, _node(matrix, grid, codes, scales, zero_points))

    def make(weight: Weight) -> Sequence[Stored]:
        quantize = find_method(choice.method)(grid, options.second_moment(matrix.name))
        arrays = [np.empty(value.shape.numpy(), value.dtype.numpy()) for value in values if value.shape and value.dtype]
        meter = ErrorMeter(matrix)
        for piece in row_pieces(rows, matrix.columns):
            by_row = np.ascontiguousarray(matrix.rows_of(weight, piece))
            quantized = quantize(by_row)
            packed = quantized.packed_codes().reshape(len(by_row), -1)[:, : math.prod(code_shape[1:])]
            arrays[0][piece] = packed.reshape(-1, *code_shape[1:])
            arrays[1][piece] = quantized.scales
            if zero_points is not None:
                arrays[2][piece] = quantized.packed_zero_points()
            dequantized = quantized.dequantized()
            meter.add(by_row, dequantized)
            options.on_rows(matrix, piece.start, by_row, dequantized)
        size_bytes = sum(array.nbytes for array in arrays)
        options.on_made(meter.report(form=choice.form, reason=choice.reason, size_bytes=size_bytes))
        return arrays

    return WeightGroup(source=matrix.name, values=tuple(values), make=make)


def _node(matrix: Matrix, grid: Grid, codes: ir.Value, scales: ir.Value, zero_points: ir.Value | None) -> ir.Node:
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
