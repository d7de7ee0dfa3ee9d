from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from codegen_edge.bundle import Bundle
from codegen_edge.errors import BundleError, InvalidInputError
from codegen_edge.evaluation.parity.verify import verify_bundle
from codegen_edge.exporter import open_checkpoint
from codegen_edge.exporter.random_checkpoint import ModelShape
from tests.conftest import MakeCheckpoint


def alter(bundle: Bundle, change: Callable[[Any], None]) -> Bundle:
    """Change the graph of a bundle, as a faulty export would have."""
    model = onnx.load(bundle.model_path, load_external_data=False)
    change(model.graph)
    bundle.model_path.write_bytes(model.SerializeToString())
    return Bundle(bundle.path, bundle.manifest)  # read by path: a bundle that was opened notices the change


def attention_nodes(graph: Any) -> list[Any]:
    return [node for node in graph.node if node.op_type == "GroupQueryAttention"]


def rotate_in_halves(graph: Any) -> None:
    for node in attention_nodes(graph):
        next(a for a in node.attribute if a.name == "rotary_interleaved").i = 0


def wrong_scale(graph: Any) -> None:
    for node in attention_nodes(graph):
        next(a for a in node.attribute if a.name == "scale").f *= 1.01


def swap_past_of_two_layers(graph: Any) -> None:
    first, second = attention_nodes(graph)
    first.input[3], second.input[3] = second.input[3], first.input[3]


def ignore_the_mask(graph: Any) -> None:
    # As if every row were as long as the batch's longest.
    (subtract,) = (node for node in graph.node if node.op_type == "Sub")
    span = next(node for node in graph.node if node.op_type == "Shape")
    longest = onnx.helper.make_node("Max", [subtract.input[0], span.output[0]], ["longest"])
    subtract.input[0] = "longest"
    others = [node for node in graph.node if node is not span and node.op_type != "ReduceSum"]
    sums = [node for node in graph.node if node.op_type == "ReduceSum"]
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in (span, *sums, longest, *others)]
    del graph.node[:]
    graph.node.extend(nodes)


def test_sound_bundle_is_equal_in_every_scenario(tiny_bundle: Bundle, tiny_checkpoint: Path) -> None:
    report = verify_bundle(tiny_bundle, open_checkpoint(tiny_checkpoint))
    assert report.is_equal, report.first_failure
    assert report.max_abs_error < 5e-5
    assert len(report.comparisons) == 5
    assert all(c.top1_agreement == 1 or c.near_ties for c in report.comparisons)


@pytest.mark.parametrize("fault", [rotate_in_halves, wrong_scale, swap_past_of_two_layers, ignore_the_mask])
def test_faulty_graph_is_found(bundle_copy: Bundle, tiny_checkpoint: Path, fault: Callable[[Any], None]) -> None:
    report = verify_bundle(alter(bundle_copy, fault), open_checkpoint(tiny_checkpoint), num_steps=4)
    assert not report.is_equal
    assert report.first_failure is not None


def test_features_are_equal_alone_and_padded(feature_bundle: Bundle, tiny_checkpoint: Path) -> None:
    report = verify_bundle(feature_bundle, open_checkpoint(tiny_checkpoint))
    assert report.is_equal, report.first_failure
    assert [comparison.scenario for comparison in report.comparisons] == ["alone", "padded batch"]


def test_other_weights_of_the_same_shape_are_found(tiny_bundle: Bundle, make_checkpoint: MakeCheckpoint) -> None:
    report = verify_bundle(tiny_bundle, open_checkpoint(make_checkpoint(seed=1)), num_steps=2)
    assert not report.is_equal


def test_checkpoint_of_another_shape_is_refused(tiny_bundle: Bundle, make_checkpoint: MakeCheckpoint) -> None:
    shape = ModelShape(n_layer=1, n_embd=64, n_head=4, rotary_dim=16, vocab_size=640, n_positions=128)
    with pytest.raises(BundleError, match="not what"):
        verify_bundle(tiny_bundle, open_checkpoint(make_checkpoint(shape)))


def test_unknown_runtime_is_refused(tiny_bundle: Bundle, tiny_checkpoint: Path) -> None:
    with pytest.raises(InvalidInputError, match="no runtime"):
        verify_bundle(tiny_bundle, open_checkpoint(tiny_checkpoint), runtime="gpu")
