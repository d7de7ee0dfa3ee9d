"""int8: every matrix in blocks of 8-bit codes, rounded to the nearest."""

from __future__ import annotations

from collections.abc import Sequence

from codegen_edge.quantization.blockwise import Grid
from codegen_edge.quantization.matrices import Matrix, quantizable
from codegen_edge.quantization.plan import Planned, PlanOptions
from codegen_edge.quantization.schemes import Scheme

BLOCK_SIZE = 128  # float32 scales add a thirty-second to the bytes of the codes
# Its error, and that of its activations, which are rounded by blocks as well, goes into the logits as it is: of all
# matrices the one whose smaller blocks lower the model's KL most (measured on the calibration text).
_HEAD_BLOCK_SIZE = 32

_REASONS = {
    "embedding": "one row per token is read: its bytes are file size, not speed",
    "linear": "read for every token: its bytes are the speed",
    "lm_head": "read for every token: its bytes are the speed",
}


def plan(matrices: Sequence[Matrix], options: PlanOptions) -> list[Planned]:
    """Put every matrix into 8-bit blocks."""
    return [choose(matrix, options) for matrix in quantizable(matrices, options.target)]


def choose(matrix: Matrix, options: PlanOptions, *, own: int | None = None, reason: str | None = None) -> Planned:
    """8 bits in blocks of `own` weights unless the options say otherwise, and symmetric."""
    own = own or (_HEAD_BLOCK_SIZE if matrix.kind == "lm_head" else BLOCK_SIZE)
    block_size = options.fitting_block_size(matrix, own)
    grid = Grid(bits=8, block_size=block_size, is_symmetric=options.is_symmetric is not False)
    return Planned(matrix=matrix, form=options.block_form(grid, "round"), reason=reason or _REASONS[matrix.kind])


SCHEME = Scheme(plan=plan)
