"""A matrix in codes inside a graph: MatMulNBits for linear layers, GatherBlockQuantized for the embedding table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from codegen_edge.errors import InvalidInputError
from codegen_edge.graph_io import Stored, Weight, WeightGroup, new_initializer
from codegen_edge.quantization.blockwise import Grid, QuantizedMatrix
from codegen_edge.quantization.matrices import Matrix, replace_matrix
from codegen_edge.quantization.methods import find_method

_ACCURACY_LEVEL = 4  # activations are rounded to int8 a block at a time: the integer kernels, which are the fast ones
_DOMAIN = "com.microsoft"

SecondMoment = Callable[[str], NDArray[np.float32] | None]
"""[K, K] of a matrix's inputs by the matrix's name, or None without calibration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What becomes of a matrix.

    Attributes:
        grid: its codes.
        method: how they are chosen.
        reason: for the report, why this and nothing else.
    """

    grid: Grid
    method: str
    reason: str


def require_fitting(matrix: Matrix, grid: Grid) -> None:
    """Raise InvalidInputError when a block is longer than the matrix's rows, which would be mostly padding."""
    if grid.block_size > matrix.columns:
        raise InvalidInputError(
            f"block_size {grid.block_size} does not fit {matrix.name}, whose rows have {matrix.columns} weights"
        )


def rewrite_matrix(
    graph: ir.Graph,
    matrix: Matrix,
    choice: Choice,
    second_moment: SecondMoment,
    on_made: Callable[[Matrix, Choice, Weight, QuantizedMatrix], None],
) -> WeightGroup:
    """Replace a matrix by its codes, scales and zero points.

    Args:
        graph: changed in place.
        matrix: of the graph.
        choice: how it is quantized.
        second_moment: calibration, asked for when the matrix is made.
        on_made: gets the float weights [N, K] and their codes, for the report.

    Returns:
        How the new initializers are made of the weight.
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
    if not grid.is_symmetric:
        shape = [rows, -(-blocks * grid.bits // 8)]
        zero_points = new_initializer(graph, f"{matrix.name}.zero_points", shape, ir.DataType.UINT8)
        values.append(zero_points)
    replace_matrix(matrix, _node(matrix, grid, codes, scales, zero_points))
    quantize = find_method(choice.method)

    def make(weight: Weight) -> Sequence[Stored]:
        by_row = weight if is_embedding else np.ascontiguousarray(weight.T)
        quantized = quantize(by_row, grid, second_moment(matrix.name))
        on_made(matrix, choice, by_row, quantized)
        packed = (
            quantized.packed_codes().reshape(rows, -1)[:, : code_shape[-1]]
            if is_embedding
            else quantized.packed_codes()
        )
        packed_zero_points = quantized.packed_zero_points()
        arrays: list[Stored] = [packed.reshape(code_shape), quantized.scales]
        return arrays if packed_zero_points is None else [*arrays, packed_zero_points]

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
