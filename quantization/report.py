"""What quantizing did: to every matrix, and to the whole model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from codegen_edge.quantization.schemes import MadeMatrix

REPORT_FILE = "quantization_report.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorReport:
    """One matrix.

    Attributes:
        name: of the weight.
        form: what it is stored as.
        reason: why so.
        relative_error: root of the squared error over the root of the squares.
        max_abs_error: of a weight.
        bytes_before: in float32.
        bytes_after: of codes, scales and zero points.
    """

    name: str
    form: str
    reason: str
    relative_error: float
    max_abs_error: float
    bytes_before: int
    bytes_after: int

    @classmethod
    def of(cls, made: MadeMatrix) -> TensorReport:
        """Measure a matrix as it is made; its arrays are not kept."""
        difference = made.dequantized - made.weights
        norm = float(np.linalg.norm(made.weights))
        return cls(
            name=made.matrix.name,
            form=made.form,
            reason=made.reason,
            relative_error=float(np.linalg.norm(difference)) / norm if norm else 0.0,
            max_abs_error=float(np.abs(difference).max(initial=0)),
            bytes_before=made.weights.nbytes,
            bytes_after=made.size_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationReport:
    """`quantization_report.json`.

    Attributes:
        scheme: its name.
        options: what it was told.
        tensors: a row a matrix, in the order of the file.
        damage: what it did to the model (`evaluation.damage`), or None when that was not measured.
        budget: how a budget was met, or None.
    """

    scheme: str
    options: dict[str, Any]
    tensors: tuple[TensorReport, ...]
    damage: dict[str, Any] | None = None
    budget: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
