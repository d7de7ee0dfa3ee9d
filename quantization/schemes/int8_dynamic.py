"""int8-dynamic: weights in 8 bits a column, activations in 8 bits at every step. The fast prefill."""

from __future__ import annotations

from collections.abc import Sequence

from codegen_edge.errors import InvalidInputError
from codegen_edge.quantization.forms.dynamic_columns import DynamicColumns
from codegen_edge.quantization.matrices import Matrix
from codegen_edge.quantization.plan import Planned, PlanOptions
from codegen_edge.quantization.schemes import Scheme, int8

_REASON = "activations in 8 bits as a whole: one integer product for many tokens at once"


def plan(matrices: Sequence[Matrix], options: PlanOptions) -> list[Planned]:
    """Put the blocks' linear layers into 8 bits a column; embedding table and LM head as int8 does.

    The head sees one token of a prefill, where the kernel for many tokens gains nothing.
    """
    if options.block_size is not None:
        raise InvalidInputError("int8-dynamic has one scale a column; it takes no block_size")
    if options.target != "ort":
        raise InvalidInputError("int8-dynamic is made of ONNX Runtime's own operators; TensorRT takes int8 or int4")
    others = [int8.choose(matrix, options) for matrix in matrices if matrix.kind != "linear"]
    return others + [
        Planned(matrix=matrix, form=DynamicColumns(), reason=_REASON) for matrix in matrices if matrix.kind == "linear"
    ]


SCHEME = Scheme(plan=plan, has_blocks=False)
