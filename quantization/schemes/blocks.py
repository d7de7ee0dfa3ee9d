"""What the blockwise schemes share."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from codegen_edge.graph_io import WeightGroup
from codegen_edge.quantization.matrices import Matrix
from codegen_edge.quantization.nbits import Choice, require_fitting, rewrite_matrix
from codegen_edge.quantization.schemes import SchemeOptions

_DOMAIN = "com.microsoft"


def fitting_block_size(matrix: Matrix, block_size: int) -> int:
    """The scheme's own block size, halved until a row holds one; what a user gives is never changed."""
    while block_size > matrix.columns and block_size > 16:
        block_size //= 2
    return block_size


def rewrite_with(
    model: ir.Model, matrices: list[Matrix], choose: Callable[[Matrix], Choice], options: SchemeOptions
) -> list[WeightGroup]:
    """Rewrite `matrices` as `choose` says; nothing is changed when one of them does not fit."""
    choices = [choose(matrix) for matrix in matrices]
    for matrix, choice in zip(matrices, choices, strict=True):
        require_fitting(matrix, choice.grid)
    model.graph.opset_imports.setdefault(_DOMAIN, 1)
    return [
        rewrite_matrix(model.graph, matrix, choice, options) for matrix, choice in zip(matrices, choices, strict=True)
    ]
