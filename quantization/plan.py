"""What becomes of every matrix of a graph, decided first, then made: one plan, and one loop over rows for all forms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from codegen_edge.bundle import contract
from codegen_edge.bundle.weights import Stored, Weight, WeightGroup, size_bytes_of
from codegen_edge.quantization.blockwise import Grid, row_pieces
from codegen_edge.quantization.forms import Form
from codegen_edge.quantization.forms.dequantize_linear import BLOCK_SIZE, DequantizeLinear
from codegen_edge.quantization.forms.nbits import NBits
from codegen_edge.quantization.matrices import Matrix
from codegen_edge.quantization.methods import SecondMoment
from codegen_edge.quantization.report import ErrorMeter, TensorReport

OnRows = Callable[[Matrix, int, Weight, Weight], None]
"""Called with a matrix, the first of some rows of it, these as they were [n, K] and what is computed with instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """What a scheme plans by.

    Attributes:
        target: which operators the graph is made of.
        block_size: weights that share a scale; None takes the scheme's own.
        is_symmetric: whether zero points are fixed; None takes the scheme's own.
        method: how codes are chosen, where the scheme leaves that open.
        kept_at_8_bits: names of matrices that int4 keeps at 8 bits; None takes the scheme's own.
        processor: which processors the graph is for.
    """

    target: contract.Target = "ort"
    block_size: int | None = None
    is_symmetric: bool | None = None
    method: str = "search"
    kept_at_8_bits: frozenset[str] | None = None
    processor: contract.Processor = "any"

    def fitting_block_size(self, matrix: Matrix, own: int) -> int:
        """The scheme's `own` block size, or the target's, halved until a row holds one; a given one stays as it is."""
        if self.block_size is not None:
            return self.block_size
        size = BLOCK_SIZE if self.target == "tensorrt" else own
        while size > matrix.columns and size > 16:
            size //= 2
        return size

    def block_form(self, grid: Grid, method: str) -> Form:
        """Codes in blocks, in the operators of the target."""
        if self.target == "tensorrt":
            return DequantizeLinear(grid=grid, method=method)
        return NBits(grid=grid, method=method)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A matrix, what it is stored as, and for the report why."""

    matrix: Matrix
    form: Form
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """What a matrix needs and who watches while it is made.

    Attributes:
        second_moment: calibration by matrix.
        on_rows: called with some rows at a time.
        on_made: called with every finished matrix.
    """

    second_moment: SecondMoment = field(default=lambda _: None)
    on_rows: OnRows = field(default=lambda *_: None)
    on_made: Callable[[TensorReport], None] = field(default=lambda _: None)


def apply_plan(model: ir.Model, plan: Sequence[Planned], making: Making) -> list[WeightGroup]:
    """Rewrite the planned matrices in place; nothing is changed when one of them does not fit its form.

    Returns:
        How the new initializers are made of each weight: some rows at a time, so that beside the weight there are only
        its codes.

    Raises:
        InvalidInputError: a matrix does not fit its form.
    """
    for planned in plan:
        planned.form.check(planned.matrix)
    groups = []
    for planned in plan:
        values = planned.form.rewrite(model.graph, planned.matrix)
        groups.append(WeightGroup(source=planned.matrix.name, values=values, make=_Maker(planned, values, making)))
    return groups


@dataclass(frozen=True, slots=True)
class _Maker:
    planned: Planned
    values: tuple[ir.Value, ...]
    making: Making

    def __call__(self, weight: Weight) -> Sequence[Stored]:
        matrix, form = self.planned.matrix, self.planned.form
        encoder = form.encoder(matrix, self.values, self.making.second_moment)
        meter = ErrorMeter(matrix)
        for place in row_pieces(matrix.rows, matrix.columns):
            rows = matrix.rows_of(weight, place)
            dequantized = encoder.encode(rows, place)
            meter.add(rows, dequantized)
            self.making.on_rows(matrix, place.start, rows, dequantized)
        size_bytes = sum(map(size_bytes_of, self.values))
        self.making.on_made(meter.report(form=form.label, reason=self.planned.reason, size_bytes=size_bytes))
        return encoder.arrays()
