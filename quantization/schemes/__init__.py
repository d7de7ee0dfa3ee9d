"""Quantization schemes, one a file. Adding a line here registers it; the tests cover what is registered."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, cast

import onnx_ir as ir

from codegen_edge import contract
from codegen_edge.errors import InvalidInputError
from codegen_edge.graph_io import Weight, WeightGroup
from codegen_edge.quantization.blockwise import Grid
from codegen_edge.quantization.matrices import Matrix
from codegen_edge.quantization.methods import SecondMoment
from codegen_edge.quantization.report import TensorReport

SCHEMES: dict[str, str] = {
    "int8": "codegen_edge.quantization.schemes.int8:rewrite",
    "int4": "codegen_edge.quantization.schemes.int4:rewrite",
    "int8-dynamic": "codegen_edge.quantization.schemes.int8_dynamic:rewrite",
    "fp16": "codegen_edge.quantization.schemes.fp16:rewrite",
}

MatrixForm = Literal["nbits", "dequantize-linear"]
"""How codes stand in a graph: in ONNX Runtime's own operators, or in ONNX's, which TensorRT takes."""

MATRIX_FORMS: dict[contract.Target, MatrixForm] = {"ort": "nbits", "tensorrt": "dequantize-linear"}

OnRows = Callable[[Matrix, int, Weight, Weight], None]
"""Told of a matrix, the first of some rows of it, these as they were [n, K] and what is computed with instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What becomes of a matrix.

    Attributes:
        grid: its codes.
        method: how they are chosen.
        reason: for the report, why this and nothing else.
    """

    grid: Grid
    method: str
    reason: str

    @property
    def form(self) -> str:
        """For the report, for example "int4, blocks of 64, gptq"."""
        symmetry = "" if self.grid.is_symmetric else ", asymmetric"
        return f"int{self.grid.bits}, blocks of {self.grid.block_size}{symmetry}, {self.method}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemeOptions:
    """What a scheme is told.

    Attributes:
        block_size: weights that share a scale; None takes the scheme's own.
        is_symmetric: whether zero points are fixed; None takes the scheme's own.
        method: how int4 codes are chosen.
        kept_at_8_bits: names of matrices that int4 keeps at 8 bits; None takes the scheme's own.
        second_moment: calibration by matrix.
        form: how codes stand in the graph.
        on_rows: told of every matrix, some rows at a time, as it is made.
        on_made: told of every matrix when it is made.
    """

    block_size: int | None = None
    is_symmetric: bool | None = None
    method: str = "search"
    kept_at_8_bits: frozenset[str] | None = None
    second_moment: SecondMoment = field(default=lambda _: None)
    form: MatrixForm = "nbits"
    on_rows: OnRows = field(default=lambda *_: None)
    on_made: Callable[[TensorReport], None] = field(default=lambda _: None)


class Scheme(Protocol):
    """What a scheme's module offers."""

    def __call__(self, model: ir.Model, options: SchemeOptions) -> list[WeightGroup]:
        """Replace the float matrices of a graph in place, and say how the new initializers are made."""


def find_scheme(name: str) -> Scheme:
    """The scheme of a name; raise InvalidInputError when there is none."""
    if name not in SCHEMES:
        raise InvalidInputError(f"there is no scheme {name!r}; there are: {', '.join(SCHEMES)}")
    module, _, function = SCHEMES[name].partition(":")
    return cast(Scheme, getattr(importlib.import_module(module), function))
