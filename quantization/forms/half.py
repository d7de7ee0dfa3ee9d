"""A matrix in float16 behind a Cast to float32. ONNX Runtime casts it once, when it loads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from codegen_edge.bundle.weights import Stored, Weight, new_initializer
from codegen_edge.errors import NumericsError
from codegen_edge.quantization.forms import allocate
from codegen_edge.quantization.matrices import Matrix, put_before
from codegen_edge.quantization.methods import SecondMoment

_LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True, slots=True)
class Half:
    """float16 behind a Cast."""

    label: str = "fp16"

    def check(self, matrix: Matrix) -> None:
        """Every matrix fits; a value may yet be beyond float16 (NumericsError, when it is encoded)."""

    def rewrite(self, graph: ir.Graph, matrix: Matrix) -> tuple[ir.Value, ...]:
        """Put the stored matrix and the Cast before its node."""
        assert matrix.weight.shape is not None
        shape = [int(dim) for dim in matrix.weight.shape.numpy()]
        stored = new_initializer(graph, f"{matrix.name}.fp16", shape, ir.DataType.FLOAT16)
        put_before(matrix, ir.node("Cast", [stored], {"to": ir.DataType.FLOAT}, name=f"{matrix.name}.Cast"))
        return (stored,)

    def encoder(self, matrix: Matrix, values: Sequence[ir.Value], second_moment: SecondMoment) -> _Encoder:
        """What makes the stored matrix."""
        return _Encoder(matrix, values)


class _Encoder:
    def __init__(self, matrix: Matrix, values: Sequence[ir.Value]) -> None:
        self._matrix = matrix
        (self._half,) = allocate(values)

    def encode(self, rows: Weight, place: slice) -> Weight:
        """Round some rows."""
        if np.abs(rows).max(initial=0) > _LARGEST:
            raise NumericsError(
                f"{self._matrix.name} holds a value beyond float16's {_LARGEST:.0f}; use another scheme"
            )
        halved = rows.astype(np.float16)
        self._matrix.rows_of(self._half, place)[...] = halved
        return halved.astype(np.float32)

    def arrays(self) -> Sequence[Stored]:
        """The stored matrix."""
        return [self._half]
