"""The kinds of matrix products that graphs are made of: each has a limit of its own on a processor."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductKind:
    """One operator with what decides how fast its kernel is.

    Attributes:
        operator: "MatMul", "MatMulInteger" or "MatMulNBits".
        bits: of a weight.
        block_size: weights that share a scale, of MatMulNBits.
        accuracy_level: of MatMulNBits: what its activations are rounded to (ContribOperators.md).
        is_signed: of MatMulInteger: whether its weights are signed integers, for which processors have instructions.
    """

    operator: str
    bits: int
    block_size: int = 0
    accuracy_level: int = 0
    is_signed: bool = False

    @property
    def label(self) -> str:
        """For tables and as a key of JSON."""
        if self.operator == "MatMul":
            return "fp32"
        if self.operator == "MatMulInteger":
            return f"int8 by row, {'signed' if self.is_signed else 'unsigned'} weights"
        activations = "int8" if self.accuracy_level == 4 else "float"
        return f"int{self.bits} in blocks of {self.block_size}, {activations} activations"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


FLOAT = ProductKind(operator="MatMul", bits=32)
BY_ROW = ProductKind(operator="MatMulInteger", bits=8)
# What every processor multiplies fastest: the limit beside which an integer kernel of another form is judged.
FASTEST = ProductKind(operator="MatMulInteger", bits=8, is_signed=True)
