"""From torch's translation to the contract's graph: fewer operators, and the names that clients know."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from codegen_edge.bundle import contract
from codegen_edge.exporter import layout

_END = np.iinfo(np.int64).max


def clean(model: ir.Model, *, prefix: str) -> set[str]:
    """Simplify a traced graph in place.

    Args:
        model: as torch translated it.
        prefix: what the traced wrapper put before the checkpoint's names.

    Returns:
        Names of the initializers that the graph now wants transposed, [in, out].
    """
    graph = model.graph
    for value in list(graph.initializers.values()):
        if value.name and value.name.startswith(prefix):
            value.name = value.name.removeprefix(prefix)
    ir.passes.Sequential(
        passes.ClearMetadataAndDocStringPass(),  # the trace holds paths of this machine
        passes.IdentityEliminationPass(),
        passes.CommonSubexpressionEliminationPass(),
    )(model)
    model.metadata_props.clear()
    computed = (value for node in graph for value in node.outputs)
    for value in (*graph.inputs, *graph.initializers.values(), *computed):
        value.metadata_props.clear()  # which the pass leaves
    _remove_shape_keepers(graph)
    transposed = _fold_weight_transposes(graph)
    ir.passes.Sequential(
        passes.RemoveUnusedNodesPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.RemoveUnusedOpsetsPass(),
    )(model)
    return transposed


def name_values(values: Sequence[ir.Value], names: Sequence[str], axes: Sequence[Sequence[str | int]]) -> None:
    """Give graph inputs or outputs the contract's names and axes."""
    for value, name, shape in zip(values, names, axes, strict=True):
        value.name = name
        value.shape = ir.Shape(shape)


def keep_last_logits(model: ir.Model) -> None:
    """Compute only the last `num_logits_to_keep` positions' logits (0: all), to spare the LM head in prefill.

    The input has a default, so clients that do not know it need not give it.
    """
    graph = model.graph
    (head,) = (usage.node for usage in graph.initializers[layout.LM_HEAD].uses())
    hidden = head.inputs[0]
    assert hidden is not None

    keep = ir.Value(name=contract.NUM_LOGITS_TO_KEEP, shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.INT64))
    keep.const_value = ir.tensor(np.zeros(1, np.int64), name=keep.name)
    graph.inputs.append(keep)
    graph.register_initializer(keep)
    end = _constant(graph, "last_logits.end", [_END])
    axis = _constant(graph, "last_logits.axis", [1])
    # The last k of T positions start at -k; at k = 0 the start is 0, which keeps all.
    start = ir.node("Neg", [keep], name="last_logits.neg")
    last = ir.node("Slice", [hidden, start.outputs[0], end, axis], name="last_logits.slice")
    start.outputs[0].name, last.outputs[0].name = "last_logits.start", "last_logits.hidden"
    last.outputs[0].type = hidden.type
    graph.insert_before(head, [start, last])
    head.replace_input_with(0, last.outputs[0])


def _constant(graph: ir.Graph, name: str, values: list[int]) -> ir.Value:
    value = ir.Value(name=name, shape=ir.Shape([len(values)]), type=ir.TensorType(ir.DataType.INT64))
    value.const_value = ir.tensor(np.array(values, np.int64), name=name)
    graph.register_initializer(value)
    return value


def _remove_shape_keepers(graph: ir.Graph) -> None:
    """Drop Reshape and full Slice nodes whose output has the very axes of their input.

    transformers' forward has a `view` to the shape that is there, and slices that keep all positions.
    """
    for node in list(graph):
        if node.op_type not in {"Reshape", "Slice"}:
            continue
        source, result = node.inputs[0], node.outputs[0]
        if source is None or source.shape is None or source.shape != result.shape:
            continue
        ir.convenience.replace_all_uses_with(result, source, replace_graph_outputs=True)
        graph.remove(node, safe=True)


def _fold_weight_transposes(graph: ir.Graph) -> set[str]:
    """Drop Transpose nodes on initializers; the weights are transposed when they are stored."""
    transposed = set()
    for node in list(graph):
        if node.op_type != "Transpose" or node.inputs[0] is None or not node.inputs[0].is_initializer():
            continue
        weight = node.inputs[0]
        assert weight.name is not None
        assert weight.shape is not None
        assert len(weight.uses()) == 1, f"{weight.name} is used both ways"
        ir.convenience.replace_all_uses_with(node.outputs[0], weight)
        graph.remove(node, safe=True)
        weight.shape = ir.Shape(reversed(list(weight.shape)))
        transposed.add(weight.name)
    return transposed
