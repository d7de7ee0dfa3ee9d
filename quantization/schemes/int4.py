"""int4: matrices in blocks of 4-bit codes; the LM head, or what a budget chose instead, in 8-bit ones."""

from __future__ import annotations

from collections.abc import Sequence

from codegen_edge.quantization.blockwise import Grid
from codegen_edge.quantization.matrices import Matrix, quantizable
from codegen_edge.quantization.methods import CALIBRATED_METHODS
from codegen_edge.quantization.plan import Planned, PlanOptions
from codegen_edge.quantization.schemes import Scheme, int8

BLOCK_SIZE = 64  # float32 scales add an eighth to the bytes of the codes
# A twelfth of a layer's weights, which cost more by the byte than any other (measured on the calibration text).
_OUT_PROJ_BLOCK_SIZE = 32

_REASONS = {
    "embedding": "one row per token is read: its bytes are file size; its rows have no inputs to calibrate with",
    "linear": "read for every token: its bytes are the speed",
    "lm_head": "read for every token: its bytes are the speed",
}
_KEPT_KIND = "lm_head"
_KEPT_REASON = "its error goes into the logits as it is: of all matrices the one that costs most at 4 bits"
_KEPT_BY_BUDGET_REASON = "kept at 8 bits: at 4 it costs most for its bytes"


def plan(matrices: Sequence[Matrix], options: PlanOptions) -> list[Planned]:
    """Put every matrix into 4-bit blocks, or 8-bit ones where the options, or else the scheme, say so."""
    return [_choose(matrix, options) for matrix in quantizable(matrices, options.target)]


def _choose(matrix: Matrix, options: PlanOptions) -> Planned:
    # In blocks of 128 even the LM head: beside what 4 bits do elsewhere, smaller ones could not be seen.
    kept = PlanOptions(target=options.target)
    if options.kept_at_8_bits is None and matrix.kind == _KEPT_KIND:
        return int8.choose(matrix, kept, own=int8.BLOCK_SIZE, reason=_KEPT_REASON)
    if options.kept_at_8_bits is not None and matrix.name in options.kept_at_8_bits:
        return int8.choose(matrix, kept, own=int8.BLOCK_SIZE, reason=_KEPT_BY_BUDGET_REASON)
    own = _OUT_PROJ_BLOCK_SIZE if matrix.name.endswith("attn.out_proj.weight") else BLOCK_SIZE
    block_size = options.fitting_block_size(matrix, own)
    # A zero point for each block is half a byte in 36, and the table is the one matrix that no method can calibrate;
    # linear layers, which are read for every token, go without.
    is_symmetric = matrix.kind != "embedding" if options.is_symmetric is None else options.is_symmetric
    grid = Grid(bits=4, block_size=block_size, is_symmetric=is_symmetric)
    has_no_inputs = matrix.kind == "embedding" and options.method in CALIBRATED_METHODS
    method = "search" if has_no_inputs else options.method
    return Planned(matrix=matrix, form=options.block_form(grid, method), reason=_REASONS[matrix.kind])


SCHEME = Scheme(plan=plan, has_methods=True)
