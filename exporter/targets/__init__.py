"""Export targets: which operators a graph is made of. One file each; adding a line here registers it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import onnx_ir as ir

from codegen_edge.bundle import contract
from codegen_edge.dependencies import incompatible_as_error
from codegen_edge.exporter.checkpoint import Checkpoint
from codegen_edge.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetGraph:
    """A graph whose weights are not there yet.

    Attributes:
        model: the contract's graph.
        transposed: initializers that the graph wants as [in, out].
        computed: values of initializers that no checkpoint holds (rotary tables), torch tensors by name.
    """

    model: ir.Model
    transposed: set[str]
    computed: dict[str, Any]


class BuildGraph(Protocol):
    """What a target's module offers."""

    def __call__(self, checkpoint: Checkpoint, task: contract.Task) -> TargetGraph:
        """Trace the checkpoint's model for one task; raise UnsupportedModelError where the target cannot."""


TARGETS: Registry[BuildGraph] = Registry(
    "target",
    {
        "ort": "codegen_edge.exporter.targets.ort:build_graph",
        "tensorrt": "codegen_edge.exporter.targets.tensorrt:build_graph",
    },
)


def build_graph(checkpoint: Checkpoint, *, task: contract.Task, target: contract.Target) -> TargetGraph:
    """Trace a checkpoint's model, without weights, into the graph of `target`.

    Raises:
        InvalidInputError: there is no such target.
        UnsupportedModelError: the target cannot hold this model.
        IncompatibleVersionError: an installed library traces it no longer, or not yet.
    """
    build = TARGETS.find(target)
    with incompatible_as_error("tracing the model", "transformers", "torch", "onnxscript", "onnx-ir"):
        return build(checkpoint, task)
