"""How codes are chosen, one method a file. Adding a line here registers it."""

from __future__ import annotations

import importlib
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from codegen_edge.errors import InvalidInputError
from codegen_edge.quantization.blockwise import Floats, Grid, QuantizedMatrix

METHODS: dict[str, str] = {
    "round": "codegen_edge.quantization.methods.round_to_nearest:quantize",
    "search": "codegen_edge.quantization.methods.scale_search:quantize",
    "gptq": "codegen_edge.quantization.methods.gptq:quantize",
}
CALIBRATED_METHODS = frozenset({"gptq"})


class Method(Protocol):
    """What a method's module offers."""

    def __call__(self, weights: Floats, grid: Grid, second_moment: NDArray[np.float32] | None) -> QuantizedMatrix:
        """Quantize `weights` [N, K].

        Args:
            weights: finite.
            grid: of the result.
            second_moment: [K, K], mean of x x' over the matrix's inputs x; None without calibration.
        """


def find_method(name: str) -> Method:
    """The method of a name; raise InvalidInputError when there is none."""
    if name not in METHODS:
        raise InvalidInputError(f"there is no method {name!r}; there are: {', '.join(METHODS)}")
    module, _, function = METHODS[name].partition(":")
    return cast(Method, getattr(importlib.import_module(module), function))
