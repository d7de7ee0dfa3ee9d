"""fp16: matrices stored in half precision, computed with in float32.

The graph casts them where they are used; ONNX Runtime does that once, when it loads, so that a step costs what a
float32 step costs. The file is half as large and loses what float16 cannot hold, which for weights that were
published in float16, as CodeGen's are on the hub, is nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from codegen_edge.errors import InvalidInputError
from codegen_edge.quantization.forms.half import Half
from codegen_edge.quantization.matrices import Matrix
from codegen_edge.quantization.plan import Planned, PlanOptions
from codegen_edge.quantization.schemes import Scheme

_REASON = "half of the bytes; exact for weights that were published in float16"


def plan(matrices: Sequence[Matrix], options: PlanOptions) -> list[Planned]:
    """Store every matrix in float16 behind a Cast."""
    if options.block_size is not None:
        raise InvalidInputError("fp16 has no blocks; it takes no block_size")
    return [Planned(matrix=matrix, form=Half(), reason=_REASON) for matrix in matrices]


SCHEME = Scheme(plan=plan, has_blocks=False)
