"""How codes are chosen, one method a file. Adding a line here registers it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from codegen_edge.errors import InvalidInputError
from codegen_edge.quantization.blockwise import Floats, Grid, QuantizedMatrix

METHODS: dict[str, str] = {
    "round": "codegen_edge.quantization.methods.round_to_nearest:prepare",
    "search": "codegen_edge.quantization.methods.scale_search:prepare",
    "gptq": "codegen_edge.quantization.methods.gptq:prepare",
}
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


def find_method(name: str) -> Method:
    """The method of a name; raise InvalidInputError when there is none."""
    if name not in METHODS:
        raise InvalidInputError(f"there is no method {name!r}; there are: {', '.join(METHODS)}")
    module, _, function = METHODS[name].partition(":")
    return cast(Method, getattr(importlib.import_module(module), function))
