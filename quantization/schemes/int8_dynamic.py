"""int8-dynamic: weights in 8 bits a column, activations in 8 bits at every step. The fast prefill.

DynamicQuantizeMatMul rounds a whole activation matrix to one scale and multiplies integers. Weights are unsigned: on
processors without VNNI onnxruntime's kernel for signed ones adds pairs of products in 16 bits, which saturate
(onnxruntime issue 6004), and a bundle does not know where it will run. Signed ones of 7 bits, which do not, were
tried: they lost more and were no faster there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from codegen_edge.errors import InvalidInputError
from codegen_edge.graph_io import Stored, Weight, WeightGroup, new_initializer
from codegen_edge.quantization.blockwise import row_pieces, usable
from codegen_edge.quantization.matrices import Matrix, find_matrices, replace_matrix
from codegen_edge.quantization.report import ErrorMeter
from codegen_edge.quantization.schemes import SchemeOptions, int8
from codegen_edge.quantization.schemes.blocks import rewrite_with

_ZERO_POINT = 128
_DOMAIN = "com.microsoft"
_FORM = "int8 a column, activations int8"
_REASON = "activations in 8 bits as a whole: one integer product for many tokens at once"


def rewrite(model: ir.Model, options: SchemeOptions) -> list[WeightGroup]:
    """Put the blocks' linear layers into 8 bits a column; embedding table and LM head as int8 does.

    The head sees one token of a prefill, where the kernel for many tokens gains nothing.
    """
    if options.block_size is not None:
        raise InvalidInputError("int8-dynamic has one scale a column; it takes no block_size")
    if options.form != "nbits":
        raise InvalidInputError("int8-dynamic is made of ONNX Runtime's own operators; TensorRT takes int8 or int4")
    matrices = find_matrices(model.graph)
    others = [matrix for matrix in matrices if matrix.kind != "linear"]
    groups = rewrite_with(model, others, lambda matrix: int8.choose(matrix, options), options)
    return groups + [_rewrite(model.graph, matrix, options) for matrix in matrices if matrix.kind == "linear"]


def _rewrite(graph: ir.Graph, matrix: Matrix, options: SchemeOptions) -> WeightGroup:
    rows, columns = matrix.rows, matrix.columns
    codes = new_initializer(graph, f"{matrix.name}.codes", [columns, rows], ir.DataType.UINT8)
    scales = new_initializer(graph, f"{matrix.name}.scales", [rows], ir.DataType.FLOAT)
    zero_points = new_initializer(graph, f"{matrix.name}.zero_points", [rows], ir.DataType.UINT8)
    inputs = [matrix.node.inputs[0], codes, scales, zero_points]
    if matrix.bias is not None:
        inputs.append(matrix.bias)
    node = ir.node("DynamicQuantizeMatMul", inputs, domain=_DOMAIN, name=f"{matrix.name}.DynamicQuantizeMatMul")
    replace_matrix(matrix, node)

    def make(weight: Weight) -> Sequence[Stored]:
        made = np.empty(weight.shape, np.uint8)
        span = np.empty(rows, np.float32)
        meter = ErrorMeter(matrix)
        for piece in row_pieces(rows, columns):
            by_row = matrix.rows_of(weight, piece)
            span[piece] = usable(np.abs(by_row).max(axis=1) / np.float32(_ZERO_POINT - 1))
            scale = span[piece, None]
            rounded = np.clip(np.rint(by_row / scale), 1 - _ZERO_POINT, _ZERO_POINT - 1)
            matrix.rows_of(made, piece)[...] = rounded + _ZERO_POINT
            dequantized = rounded * scale
            meter.add(by_row, dequantized)
            options.on_rows(matrix, piece.start, by_row, dequantized)
        arrays: list[Stored] = [made, span, np.full(rows, _ZERO_POINT, np.uint8)]
        size_bytes = sum(array.nbytes for array in arrays)
        options.on_made(meter.report(form=_FORM, reason=_REASON, size_bytes=size_bytes))
        return arrays

    return WeightGroup(source=matrix.name, values=(codes, scales, zero_points), make=make)
