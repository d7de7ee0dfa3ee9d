"""int8: every matrix in blocks of 8-bit codes, rounded to the nearest.

At 8 bits plain rounding is within a twentieth of a percent of perplexity: a better method would measure the same.
"""

from __future__ import annotations

import onnx_ir as ir

from codegen_edge.graph_io import WeightGroup
from codegen_edge.quantization.blockwise import Grid
from codegen_edge.quantization.matrices import Matrix, find_matrices
from codegen_edge.quantization.nbits import Choice
from codegen_edge.quantization.schemes import SchemeOptions
from codegen_edge.quantization.schemes.blocks import fitting_block_size, rewrite_with

BLOCK_SIZE = 128  # scales are a sixteenth of the bytes at 64, a thirty-second here

_REASONS = {
    "embedding": "a row is read as it is written: no kernel cares, and 8 bits lose nothing that can be measured",
    "linear": "8 bits lose nothing that can be measured",
    "lm_head": "a fifth of a small model's bytes, read for every token; 8 bits lose nothing that can be measured",
}


def rewrite(model: ir.Model, options: SchemeOptions) -> list[WeightGroup]:
    """Put every matrix into 8-bit blocks."""
    return rewrite_with(model, find_matrices(model.graph), lambda matrix: choose(matrix, options), options)


def choose(matrix: Matrix, options: SchemeOptions, reason: str | None = None) -> Choice:
    """8 bits, symmetric unless told otherwise."""
    block_size = options.block_size or fitting_block_size(matrix, BLOCK_SIZE)
    grid = Grid(bits=8, block_size=block_size, is_symmetric=options.is_symmetric is not False)
    return Choice(grid=grid, method="round", reason=reason or _REASONS[matrix.kind])
