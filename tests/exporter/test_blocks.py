"""A graph whose middle block was repeated is the one that a trace of all blocks gives."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
import pytest

from codegen_edge.bundle import contract
from codegen_edge.exporter import blocks, locate_checkpoint
from codegen_edge.exporter.checkpoint import Checkpoint, open_checkpoint
from codegen_edge.exporter.targets import TargetGraph, build_graph
from tests.conftest import TINY, MakeCheckpoint

LAYERS = 6


def opened(folder: Path) -> Checkpoint:
    located = locate_checkpoint(str(folder))
    return open_checkpoint(located.folder, located.tokenizer)


@pytest.fixture(scope="module")
def deep_checkpoint(make_checkpoint: MakeCheckpoint) -> Checkpoint:
    return opened(make_checkpoint(replace(TINY, n_layer=LAYERS)))


@pytest.mark.parametrize(
    ("target", "task"), [("ort", "text-generation"), ("ort", "feature-extraction"), ("tensorrt", "text-generation")]
)
def test_repeated_blocks_are_those_of_a_whole_trace(
    deep_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, target: contract.Target, task: contract.Task
) -> None:
    repeated = build_graph(deep_checkpoint, task=task, target=target)
    monkeypatch.setattr(blocks, "TRACED", LAYERS)
    whole = build_graph(deep_checkpoint, task=task, target=target)
    assert described(repeated) == described(whole)
    assert repeated.transposed == whole.transposed
    assert repeated.computed.keys() == whole.computed.keys()
    # The weights are written in this order.
    assert weights_of(repeated) == weights_of(whole)


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_every_depth_has_its_blocks(make_checkpoint: MakeCheckpoint, layers: int) -> None:
    checkpoint = opened(make_checkpoint(replace(TINY, n_layer=layers)))
    graph = build_graph(checkpoint, task="text-generation", target="ort").model.graph
    attentions = [node for node in graph if node.op_type == "GroupQueryAttention"]
    assert len(attentions) == layers
    pasts = [contract.past_name(layer, part) for layer in range(layers) for part in contract.KV_PARTS]
    assert [value.name for node in attentions for value in node.inputs[3:5] if value is not None] == pasts
    assert {f"transformer.h.{layer}.ln_1.weight" for layer in range(layers)} <= graph.initializers.keys()
    assert f"transformer.h.{layers}.ln_1.weight" not in graph.initializers
    assert not any(value.metadata_props for node in graph for value in (*node.inputs, *node.outputs) if value)


def weights_of(target: TargetGraph) -> list[str]:
    return [name for name in target.model.graph.initializers if name.startswith(("transformer.", "lm_head."))]


def described(target: TargetGraph) -> list[object]:
    """A graph as plain data: every value by what it is computed from, so neither names nor an order of nodes matter."""
    graph = target.model.graph
    known: dict[ir.Value | None, object] = {None: None}
    symbols: dict[str, str] = {}

    def told(value: ir.Value | None) -> object:
        if value in known:
            return known[value]
        assert value is not None
        if value.name in graph.initializers and not str(value.name).startswith(("transformer.", "lm_head.", "rotary_")):
            assert value.const_value is not None
            return value.const_value.numpy().tolist()  # a constant, whatever torch calls it
        return value.name

    def kind_of(value: ir.Value) -> tuple[str, str]:
        named = re.sub(r"\bs\d+\b", lambda match: symbols.setdefault(match[0], f"s{len(symbols)}"), str(value.shape))
        return str(value.type), named

    nodes = []
    for node in graph:
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        inputs = [told(value) for value in node.inputs]
        if node.op_type == "Shape" and str(inputs[0]).startswith("past_key_values."):
            inputs = ["a past"]  # they have the same axes, and torch asks any of them
        digest = hashlib.sha256(repr((node.domain, node.op_type, attributes, inputs)).encode()).hexdigest()
        known |= {value: f"{node.op_type} {digest[:12]} {place}" for place, value in enumerate(node.outputs)}
        nodes.append((known[node.outputs[0]], [kind_of(value) for value in node.outputs]))
    outputs = [(value.name, known[value], kind_of(value)) for value in graph.outputs]
    weights = sorted((name, str(graph.initializers[name].shape)) for name in weights_of(target))
    return [[(value.name, kind_of(value)) for value in graph.inputs], sorted(nodes), outputs, weights]
