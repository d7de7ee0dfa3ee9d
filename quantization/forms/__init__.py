"""How a quantized matrix stands in a graph, one form a file: its operator, its initializers, its codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import onnx_ir as ir

from codegen_edge.bundle.weights import Stored, Weight
from codegen_edge.errors import InvalidInputError
from codegen_edge.quantization.blockwise import Grid
from codegen_edge.quantization.matrices import Matrix
from codegen_edge.quantization.methods import SecondMoment


class Encoder(Protocol):
    """Makes the initializers of one matrix, some rows at a time."""

    def encode(self, rows: Weight, place: slice) -> Weight:
        """Store the codes of some rows.

        Args:
            rows: [n, K] float32, finite.
            place: which rows of the matrix they are.

        Returns:
            [n, K] float32, what the codes stand for.
        """

    def arrays(self) -> Sequence[Stored]:
        """One array for each of the form's initializers, when all rows are encoded."""


class Form(Protocol):
    """What a form's module offers."""

    @property
    def label(self) -> str:
        """For the report, for example "int4, blocks of 64, gptq"."""

    def check(self, matrix: Matrix) -> None:
        """Raise InvalidInputError where the matrix does not fit the form; nothing is changed."""

    def rewrite(self, graph: ir.Graph, matrix: Matrix) -> tuple[ir.Value, ...]:
        """Put the form's operator in the place of the matrix, in place; give its initializers, which have no data."""

    def encoder(self, matrix: Matrix, values: Sequence[ir.Value], second_moment: SecondMoment) -> Encoder:
        """What makes the data of `values`.

        Args:
            matrix: that was rewritten.
            values: from `rewrite`.
            second_moment: calibration by a matrix's name.
        """


def allocate(values: Sequence[ir.Value]) -> list[Stored]:
    """An empty array for every initializer."""
    return [np.empty(value.shape.numpy(), value.dtype.numpy()) for value in values if value.shape and value.dtype]


def require_fitting(matrix: Matrix, grid: Grid) -> None:
    """Raise InvalidInputError when a block is longer than the matrix's rows, which would be mostly padding."""
    if grid.block_size > matrix.columns:
        raise InvalidInputError(
            f"block_size {grid.block_size} does not fit {matrix.name}, whose rows have {matrix.columns} weights"
        )


def block_label(grid: Grid, method: str) -> str:
    """The report's label of codes in blocks."""
    symmetry = "" if grid.is_symmetric else ", asymmetric"
    return f"int{grid.bits}, blocks of {grid.block_size}{symmetry}, {method}"
