"""Quantization schemes, one per file; `quantization/registry.py` lists them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from codegen_edge.bundle.weights import WeightGroup
from codegen_edge.quantization.matrices import Matrix, find_matrices
from codegen_edge.quantization.plan import Making, Planned, PlanOptions, apply_plan
from codegen_edge.quantization.registry import SCHEMES


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """What a scheme's module offers.

    Attributes:
        plan: what becomes of the matrices of a graph, in their order; those that it leaves out stay float32.
        has_blocks: whether it takes a block size and zero points.
        has_methods: whether the codes may be chosen by a method, and matrices be kept at 8 bits.
        depends_on_processor: whether some processors have a faster form than the one that runs on all.
    """

    plan: Callable[[Sequence[Matrix], PlanOptions], list[Planned]]
    has_blocks: bool = True
    has_methods: bool = False
    depends_on_processor: bool = False


def rewrite_graph(
    model: ir.Model, scheme: str, options: PlanOptions | None = None, making: Making | None = None
) -> list[WeightGroup]:
    """Replace the float matrices of a graph in place as a scheme plans it, and say how the new initializers are made.

    Raises:
        InvalidInputError: no scheme has this name, or a matrix does not fit it.
        BundleError: the graph has no float matrices.
    """
    plan = SCHEMES.find(scheme).plan(find_matrices(model.graph), options or PlanOptions())
    return apply_plan(model, plan, making or Making())


__all__ = ["SCHEMES", "Scheme", "rewrite_graph"]
