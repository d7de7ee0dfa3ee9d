"""What quantizing did: to every matrix, and to the whole model."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from codegen_edge.bundle.weights import Weight
from codegen_edge.quantization.matrices import Matrix

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


class ErrorMeter:
    """Sums up the error of a matrix while it is made, some rows at a time; no array is kept."""

    def __init__(self, matrix: Matrix) -> None:
        self._matrix = matrix
        self._squared_error = self._squares = self._largest = 0.0

    def add(self, weights: Weight, dequantized: Weight) -> None:
        """Some rows as they were, and what is computed with instead."""
        difference = (dequantized - weights).ravel()
        # In float64: squares of what float32 holds leave its range.
        self._squared_error += float(np.einsum("i,i->", difference, difference, dtype=np.float64))
        flat = weights.ravel()
        self._squares += float(np.einsum("i,i->", flat, flat, dtype=np.float64))
        self._largest = max(self._largest, float(np.abs(difference).max(initial=0)))

    def report(self, *, form: str, reason: str, size_bytes: int) -> TensorReport:
        """The matrix, whose initializers take `size_bytes` in all."""
        return TensorReport(
            name=self._matrix.name,
            form=form,
            reason=reason,
            relative_error=math.sqrt(self._squared_error / self._squares) if self._squares else 0.0,
            max_abs_error=self._largest,
            bytes_before=4 * self._matrix.rows * self._matrix.columns,
            bytes_after=size_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationReport:
    """`quantization_report.json`.

    Attributes:
        scheme: its name.
        options: its settings.
        tensors: one entry for each matrix, in the order of the file.
        damage: what it did to the model (`evaluation/quality/damage.py`), or None when that was not measured.
        budget: how a budget was met, or None.
        calibration_tokens: that second moments are of, a long text's in part; None where no code depends on them.
    """

    scheme: str
    options: dict[str, Any]
    tensors: tuple[TensorReport, ...]
    damage: dict[str, Any] | None = None
    budget: dict[str, Any] | None = None
    calibration_tokens: int | None = None

    def to_json(self) -> bytes:
        """The content of the file."""
        return (json.dumps(self.to_dict(), indent=2) + "\n").encode()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
