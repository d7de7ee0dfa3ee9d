"""fp16: matrices stored in half precision, computed with in float32.

The graph casts them where they are used; ONNX Runtime does that once, when it loads, so that a step costs what a
float32 step costs. The file is half as large and loses what float16 cannot hold, which for weights that were
published in float16, as CodeGen's are on the hub, is nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from codegen_edge.errors import InvalidInputError, NumericsError
from codegen_edge.graph_io import Stored, Weight, WeightGroup, new_initializer
from codegen_edge.quantization.blockwise import row_pieces
from codegen_edge.quantization.matrices import Matrix, find_matrices
from codegen_edge.quantization.report import ErrorMeter
from codegen_edge.quantization.schemes import SchemeOptions

_REASON = "half of the bytes; exact for weights that were published in float16"
_LARGEST = float(np.finfo(np.float16).max)


def rewrite(model: ir.Model, options: SchemeOptions) -> list[WeightGroup]:
    """Store every matrix in float16 behind a Cast."""
    if options.block_size is not None:
        raise InvalidInputError("fp16 has no blocks; it takes no block_size")
    return [_rewrite(model.graph, matrix, options) for matrix in find_matrices(model.graph)]


def _rewrite(graph: ir.Graph, matrix: Matrix, options: SchemeOptions) -> WeightGroup:
    weight = matrix.weight
    assert weight.shape is not None
    shape = [int(dim) for dim in weight.shape.numpy()]
    stored = new_initializer(graph, f"{matrix.name}.fp16", shape, ir.DataType.FLOAT16)
    cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT}, name=f"{matrix.name}.Cast")
    cast.outputs[0].type, cast.outputs[0].shape = weight.type, weight.shape
    graph.insert_before(matrix.node, cast)
    ir.convenience.replace_all_uses_with(weight, cast.outputs[0])
    graph.initializers.pop(matrix.name)

    def make(values: Weight) -> Sequence[Stored]:
        half = np.empty(values.shape, np.float16)
        meter = ErrorMeter(matrix)
        for piece in row_pieces(matrix.rows, matrix.columns):
            by_row = matrix.rows_of(values, piece)
            if np.abs(by_row).max(initial=0) > _LARGEST:
                raise NumericsError(f"{matrix.name} holds a value beyond float16's {_LARGEST:.0f}; use another scheme")
            halved = by_row.astype(np.float16)
            matrix.rows_of(half, piece)[...] = halved
            dequantized = halved.astype(np.float32)
            meter.add(by_row, dequantized)
            options.on_rows(matrix, piece.start, by_row, dequantized)
        options.on_made(meter.report(form="fp16", reason=_REASON, size_bytes=half.nbytes))
        return [half]

    return WeightGroup(source=matrix.name, values=(stored,), make=make)
