"""int8: every matrix in blocks of 8-bit codes, rounded to the nearest."""

from __future__ import annotations

import onnx_ir as ir

from codegen_edge.graph_io import WeightGroup
from codegen_edge.quantization.blockwise import Grid
from codegen_edge.quantization.matrices import Matrix, find_matrices
from codegen_edge.quantization.schemes import Choice, SchemeOptions
from codegen_edge.quantization.schemes.blocks import fitting_block_size, rewrite_with

BLOCK_SIZE = 128  # float32 scales add a thirty-second to the bytes of the codes
# Its error, and that of its activations, which are rounded by blocks as well, goes into the logits as it is: of all
# matrices the one whose smaller blocks lower the model's KL most (measured on the calibration text).
_HEAD_BLOCK_SIZE = 32

_REASONS = {
    "embedding": "one row a token is read: its bytes are file size, not speed",
    "linear": "read for every token: its bytes are the speed",
    "lm_head": "read for every token: its bytes are the speed",
}


def rewrite(model: ir.Model, options: SchemeOptions) -> list[WeightGroup]:
    """Put every matrix into 8-bit blocks."""
    return rewrite_with(model, find_matrices(model.graph), lambda matrix: choose(matrix, options), options)


def choose(matrix: Matrix, options: SchemeOptions, reason: str | None = None) -> Choice:
    """8 bits, symmetric unless told otherwise."""
    own = _HEAD_BLOCK_SIZE if matrix.kind == "lm_head" else BLOCK_SIZE
    block_size = options.block_size or fitting_block_size(matrix, own, options.form)
    grid = Grid(bits=8, block_size=block_size, is_symmetric=options.is_symmetric is not False)
    return Choice(grid=grid, method="round", reason=reason or _REASONS[matrix.kind])
