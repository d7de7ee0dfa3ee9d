"""A trace of three blocks becomes the graph of as many as the model has.

torch's time grows with every block, and CodeGen's blocks differ in nothing but their weights. So of a deeper model the
first block, one in the middle and the last are traced, and the one in the middle is repeated. The result is the graph
that a trace of all blocks gives, value by value, which tests/exporter/test_blocks.py shows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import onnx_ir as ir

TRACED = 3
_REPEATED = 1  # number of the block in the middle
_BLOCK = re.compile(r"(?<=transformer\.h\.)\d+(?=\.)")


def num_traced(num_layers: int) -> int:
    """How many blocks of a model are traced."""
    return min(num_layers, TRACED)


def repeat_block(graph: ir.Graph, num_layers: int) -> None:
    """Repeat the middle one of three traced blocks until there are `num_layers`, in place.

    Inputs and outputs of the graph that belong to a block are repeated, too, behind those of the block before.
    """
    if num_layers <= TRACED:
        return
    start, end = _hidden(graph, _REPEATED), _hidden(graph, _REPEATED + 1)
    behind = [(usage.node, usage.idx) for usage in end.uses()]
    known = _ancestors(start)
    wanted = _ancestors(end)
    nodes = [node for node in graph if node in wanted and node not in known]
    weights = [value for value in graph.initializers.values() if _block_of(value) == _REPEATED]
    # torch may ask any block's past for an axis that all of them share.
    readers = {value: {usage.node for usage in value.uses() if usage.node.op_type != "Shape"} for value in graph.inputs}
    inputs = [value for value, found in readers.items() if found & set(nodes) and not found & known]
    outputs = [value for value in graph.outputs if value.producer() in nodes]
    after_input, after_output = (
        max(map(of.index, part), default=0) for of, part in ((graph.inputs, inputs), (graph.outputs, outputs))
    )
    ordered = list(graph.initializers.values())
    for value in ordered:
        if _block_of(value) == TRACED - 1:
            value.name = _BLOCK.sub(str(num_layers - 1), str(value.name))
    after_weight = ordered.index(weights[-1])

    hidden, last = end, nodes[-1]
    for layer in range(_REPEATED + 1, num_layers - 1):
        copies: dict[ir.Value | None, ir.Value] = {start: hidden}
        for value in weights:
            copies[value] = _copied(value, _BLOCK.sub(str(layer), str(value.name)))
            after_weight += 1
            ordered.insert(after_weight, copies[value])
        for value in inputs:
            copies[value] = _copied(value, f"{value.name}.{layer}")
            after_input += 1
            graph.inputs.insert(after_input, copies[value])
        repeated = [_repeated(node, copies, layer) for node in nodes]
        graph.insert_after(last, repeated)
        for value in outputs:
            after_output += 1
            graph.outputs.insert(after_output, copies[value])
        hidden, last = copies[end], repeated[-1]
    for node, place in behind:
        node.replace_input_with(place, hidden)
    # In the order of a whole trace, in which weights are written.
    graph.initializers.clear()
    for value in ordered:
        graph.register_initializer(value)


def _hidden(graph: ir.Graph, block: int) -> ir.Value:
    """What a block reads: the input of its first operator, a LayerNormalization."""
    for value in graph.initializers.values():
        if str(value.name).endswith(f"transformer.h.{block}.ln_1.weight"):
            (usage,) = value.uses()
            hidden = usage.node.inputs[0]
            assert usage.node.op_type == "LayerNormalization"
            assert hidden is not None
            return hidden
    raise AssertionError(f"no block {block} in the trace")


def _ancestors(value: ir.Value) -> set[ir.Node]:
    """The nodes that a value is computed by."""
    found: set[ir.Node] = set()
    waiting = [value.producer()]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [each.producer() for each in node.inputs if each is not None]
    return found


def _block_of(value: ir.Value) -> int | None:
    match = _BLOCK.search(str(value.name))
    return None if match is None else int(match[0])


def _copied(value: ir.Value, name: str) -> ir.Value:
    shape = None if value.shape is None else ir.Shape(value.shape)
    return ir.Value(name=name, shape=shape, type=value.type, const_value=value.const_value)


def _repeated(node: ir.Node, copies: dict[ir.Value | None, ir.Value], layer: int) -> ir.Node:
    """A copy of a node between copies of its values, which it adds to `copies`."""
    for value in node.outputs:
        copies[value] = _copied(value, f"{value.name}.{layer}")
    inputs: Sequence[ir.Value | None] = [copies.get(value, value) for value in node.inputs]
    return ir.Node(
        node.domain,
        node.op_type,
        inputs,
        list(node.attributes.values()),
        overload=node.overload,
        outputs=[copies[value] for value in node.outputs],
        version=node.version,
        name=f"{node.name}.{layer}",
    )
