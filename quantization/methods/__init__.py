"""How codes are chosen, one method per file; `quantization/registry.py` lists them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from codegen_edge.quantization.blockwise import Floats, Grid, QuantizedMatrix
from codegen_edge.quantization.registry import METHODS

CALIBRATED_METHODS = frozenset({"gptq"})


SecondMoment = Callable[[str], NDArray[np.float32] | None]
"""[K, K], the mean of x x' over the inputs x of a matrix, by the matrix's name; None without calibration."""

QuantizeRows = Callable[[Floats], QuantizedMatrix]
"""Quantizes some rows [n, K] of a matrix, finite. What becomes of a row does not depend on the others."""


class Method(Protocol):
    """What a method's module offers."""

    def __call__(self, grid: Grid, second_moment: NDArray[np.float32] | None) -> QuantizeRows:
        """Prepare for the rows of one matrix.

        Args:
            grid: of the result.
            second_moment: [K, K] of the matrix's inputs; None without calibration.
        """


__all__ = ["CALIBRATED_METHODS", "METHODS", "Method", "QuantizeRows", "SecondMoment"]
