"""Giving a checkpoint's weights to a graph, one tensor at a time."""

from __future__ import annotations

from codegen_edge.bundle.weights import ReadWeight, Weight, require_finite
from codegen_edge.exporter.checkpoint import Checkpoint
from codegen_edge.exporter.layout import graph_tensor
from codegen_edge.exporter.targets import TargetGraph


def weight_reader(checkpoint: Checkpoint, graph: TargetGraph) -> ReadWeight:
    """Read weights in the graph's layout, from what `graph.computed` holds or else from the checkpoint.

    Memory of a read: the stored tensor (mapped) and its float32 copy. It raises NumericsError where a weight is NaN
    or infinite; the tensor is named.
    """

    def read(name: str) -> Weight:
        if name in graph.computed:
            computed: Weight = graph.computed[name].numpy()
            return computed
        stored = graph_tensor(name, checkpoint.read(name), is_transposed=name in graph.transposed)
        return require_finite(name, stored.numpy())

    return read
