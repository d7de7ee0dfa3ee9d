"""How far a bundle's logits may be from the reference's, in one table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """The largest allowed |difference| of a value, per unit of the reference's spread.

    Attributes:
        relative: allowed |difference| for a spread (standard deviation) of 1 or less; larger ones scale it.
        reason: where the number comes from.
    """

    relative: float
    reason: str

    def limit(self, reference: NDArray[np.float32]) -> float:
        """The allowed |difference| for these reference values: `relative` times their spread, at least 1."""
        return self.relative * max(1.0, float(reference.std()))


TOLERANCES: dict[str, Tolerance] = {
    "fp32": Tolerance(
        relative=2e-4,
        reason="float32 kernels sum in different orders: 20 layers differ by less than 1e-5; "
        "a wrong position, mask or layout differs by more than the limit (test_verify.py)",
    ),
    "computed in fp16": Tolerance(
        relative=6e-2,
        reason="every operator rounds to 11 bits: 2^-11 of a value each time, over some six operators of 20 layers "
        "that add up like a walk; a wrong position, mask or layout differs by the spread itself",
    ),
    "computed in bf16": Tolerance(
        relative=4e-1,
        reason="as in fp16, with 8 bits: eight times the error",
    ),
    "fp16": Tolerance(
        relative=2e-2,
        reason="matrices rounded to 11 bits, computed with in float32: none for weights published in float16, "
        "at most 2^-11 of each weight for others",
    ),
}
