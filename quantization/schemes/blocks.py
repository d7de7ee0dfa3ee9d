"""What the blockwise schemes share."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from codegen_edge.graph_io import WeightGroup
from codegen_edge.quantization import dequantize_linear, nbits
from codegen_edge.quantization.matrices import Matrix
from codegen_edge.quantization.schemes import Choice, MatrixForm, SchemeOptions

_DOMAIN = "com.microsoft"


def fitting_block_size(matrix: Matrix, block_size: int, form: MatrixForm) -> int:
    """The scheme's own block size, or the form's, halved until a row holds one; what a user gives is never changed."""
    if form == "dequantize-linear":
        block_size = dequantize_linear.BLOCK_SIZE
    while block_size > matrix.columns and block_size > 16:
        block_size //= 2
    return block_size


def rewrite_with(
    model: ir.Model, matrices: list[Matrix], choose: Callable[[Matrix], Choice], options: SchemeOptions
) -> list[WeightGroup]:
    """Rewrite `matrices` as `choose` says; nothing is changed when one of them does not fit."""
    if options.form == "dequantize-linear":  # TensorRT gathers rows of floats
        matrices = [matrix for matrix in matrices if matrix.kind != "embedding"]
    rewrite = dequantize_linear.rewrite_matrix if options.form == "dequantize-linear" else nbits.rewrite_matrix
    choices = [choose(matrix) for matrix in matrices]
    for matrix, choice in zip(matrices, choices, strict=True):
        nbits.require_fitting(matrix, choice.grid)
    if options.form == "nbits":
        model.graph.opset_imports.setdefault(_DOMAIN, 1)
    return [rewrite(model.graph, matrix, choice, options) for matrix, choice in zip(matrices, choices, strict=True)]
