"""Giving a checkpoint's weights to a graph, one tensor at a time."""

from __future__ import annotations

import torch

from codegen_edge.errors import NumericsError
from codegen_edge.exporter.checkpoint import Checkpoint
from codegen_edge.exporter.layout import graph_tensor
from codegen_edge.exporter.targets import TargetGraph
from codegen_edge.graph_io import ReadWeight, Weight


def weight_reader(checkpoint: Checkpoint, graph: TargetGraph) -> ReadWeight:
    """Read weights in the graph's layout, from what `graph.computed` holds or else from the checkpoint.

    Memory of a read: the stored tensor (mapped) and its float32 copy. It raises NumericsError where a weight is NaN
    or infinite; the tensor is named.
    """

    def read(name: str) -> Weight:
        if name in graph.computed:
            computed: Weight = graph.computed[name].numpy()
            return computed
        weight = checkpoint.read(name)
        # min and max carry NaN and infinity along, without a mask as large as the tensor.
        if not torch.isfinite(torch.stack(weight.aminmax())).all():
            raise NumericsError(f"{name} holds NaN or infinity; the checkpoint is broken")
        stored: Weight = graph_tensor(name, weight, is_transposed=name in graph.transposed).numpy()
        return stored

    return read
