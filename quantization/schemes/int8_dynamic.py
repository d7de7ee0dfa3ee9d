"""int8-dynamic: weights in 8 bits per column, activations in 8 bits per token. The fast prefill."""

from __future__ import annotations

from collections.abc import Sequence

from codegen_edge.errors import InvalidInputError
from codegen_edge.quantization.forms.by_row import ByRow
from codegen_edge.quantization.matrices import Matrix
from codegen_edge.quantization.plan import Planned, PlanOptions
from codegen_edge.quantization.schemes import Scheme, int8

_REASON = "activations in 8 bits per token: one integer product for many tokens at once"


def plan(matrices: Sequence[Matrix], options: PlanOptions) -> list[Planned]:
    """Put the blocks' linear layers into 8 bits per column; embedding table and LM head as int8 does.

    The head sees one token of a prefill, where the kernel for many tokens gains nothing.
    """
    if options.block_size is not None:
        raise InvalidInputError("int8-dynamic has one scale per column; it takes no block_size")
    if options.target != "ort":
        raise InvalidInputError("int8-dynamic is made of ONNX Runtime's own operators; TensorRT takes int8 or int4")
    others = [int8.choose(matrix, options) for matrix in matrices if matrix.kind != "linear"]
    form = ByRow(is_signed=options.processor == "vnni")
    return others + [
        Planned(matrix=matrix, form=form, reason=_REASON) for matrix in matrices if matrix.kind == "linear"
    ]


SCHEME = Scheme(plan=plan, has_blocks=False, depends_on_processor=True)
