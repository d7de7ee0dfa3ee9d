"""Counted against arithmetic by hand: the tiny model has L 2, H 4, D 16, E 64, V 640, and 4 * E inside of a layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from codegen_edge.bundle import Bundle
from codegen_edge.evaluation.speed.counting import GraphWork, count_work
from codegen_edge.evaluation.speed.kinds import BY_ROW, FASTEST, FLOAT, ProductKind
from codegen_edge.quantization import QuantizeOptions, quantize_bundle

LAYERS, WIDTH, VOCAB, ROTARY = 2, 64, 640, 16
MATRICES = {"qkv": WIDTH * 3 * WIDTH, "out": WIDTH * WIDTH, "in": WIDTH * 4 * WIDTH, "back": 4 * WIDTH * WIDTH}
BODY = LAYERS * sum(MATRICES.values())
HEAD = WIDTH * VOCAB
NORMS_AND_BIASES = 4 * (LAYERS * (2 * WIDTH + 4 * WIDTH + WIDTH) + 2 * WIDTH + VOCAB)
ROTARY_ROWS = LAYERS * 2 * (ROTARY // 2) * 4  # a row of cosines and one of sines per layer
POSITION = 2 * LAYERS * WIDTH * 4


def nodes_of(bundle: Bundle, operator: str) -> list[ir.Node]:
    return [node for node in ir.load(bundle.model_path).graph if node.op_type == operator]


def number(node: ir.Node, name: str) -> int:
    return node.attributes[name].as_int()


def matrix_bytes(node: ir.Node) -> int:
    """Codes and float scales of a MatMulNBits, by its attributes."""
    blocks = -(-number(node, "K") // number(node, "block_size"))
    return number(node, "N") * blocks * (number(node, "block_size") * number(node, "bits") // 8 + 4)


def test_fp32_reads_every_weight_but_the_embedding(tiny_bundle: Bundle) -> None:
    work = count_work(tiny_bundle)
    assert work.weight_bytes == 4 * (BODY + HEAD) + NORMS_AND_BIASES
    assert work.row_bytes == 4 * WIDTH + ROTARY_ROWS
    assert work.position_bytes == POSITION
    assert (work.body, work.head) == ({FLOAT: BODY}, {FLOAT: HEAD})
    assert work.kinds == (FLOAT,)


@pytest.mark.parametrize(("precision", "bits"), [("int8", 8), ("int4", 4)])
def test_codes_and_scales_are_read_as_they_are_stored(
    bundles_by_precision: dict[str, Bundle], precision: str, bits: int
) -> None:
    bundle = bundles_by_precision[precision]
    products = nodes_of(bundle, "MatMulNBits")
    assert len(products) == 4 * LAYERS + 1
    work = count_work(bundle)
    assert work.weight_bytes == sum(map(matrix_bytes, products)) + NORMS_AND_BIASES
    assert {kind.bits for kind in work.body} == {bits}
    assert {kind.bits for kind in work.head} == {8}
    assert (sum(work.body.values()), sum(work.head.values())) == (BODY, HEAD)
    assert {FLOAT, FASTEST} < set(work.kinds)


@pytest.mark.parametrize(("precision", "code_bytes"), [("int8", WIDTH), ("int4", WIDTH // 2)])
def test_of_a_quantized_embedding_a_row_is_read(
    bundles_by_precision: dict[str, Bundle], precision: str, code_bytes: int
) -> None:
    (gather,) = nodes_of(bundles_by_precision[precision], "GatherBlockQuantized")
    blocks = WIDTH // number(gather, "block_size")
    scales, zero_points = 4 * blocks, blocks if precision == "int8" else -(-blocks // 2)
    row_bytes = count_work(bundles_by_precision[precision]).row_bytes
    assert row_bytes == code_bytes + scales + zero_points + ROTARY_ROWS


def test_products_by_row_are_a_kind_of_their_own(bundles_by_precision: dict[str, Bundle]) -> None:
    work = count_work(bundles_by_precision["int8-dynamic"])
    assert work.body == {BY_ROW: BODY}
    assert {kind.operator for kind in work.head} == {"MatMulNBits"}
    (head,) = nodes_of(bundles_by_precision["int8-dynamic"], "MatMulNBits")
    scales = 4 * LAYERS * (3 * WIDTH + WIDTH + 4 * WIDTH + WIDTH)  # one per column
    assert work.weight_bytes == BODY + scales + matrix_bytes(head) + NORMS_AND_BIASES


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4", "int8-dynamic"])
def test_what_is_counted_is_all_that_the_data_file_holds(
    bundles_by_precision: dict[str, Bundle], precision: str
) -> None:
    """Weights, and the tables of which rows are taken, make up the file but for its padding."""
    bundle = bundles_by_precision[precision]
    graph = ir.load(bundle.model_path).graph
    stored = {name: value.const_value for name, value in graph.initializers.items()}
    tables = sum(
        tensor.nbytes for name, tensor in stored.items() if tensor and name.startswith(("rotary", "transformer.wte"))
    )
    padding = (bundle.path / "onnx/model.onnx_data").stat().st_size - tables - count_work(bundle).weight_bytes
    assert 0 <= padding < 4096 * len(stored)


def test_an_int8_cache_is_a_quarter_of_a_float_one(tiny_bundle: Bundle, tmp_path: Path) -> None:
    options = QuantizeOptions(scheme="int8", kv_cache="int8")
    documents = [np.arange(100)]
    bundle, _ = quantize_bundle(tiny_bundle, tmp_path / "kv", options, calibration_documents=documents)
    assert count_work(bundle).position_bytes == POSITION // 4


WORK = GraphWork(
    weight_bytes=1000,
    row_bytes=10,
    position_bytes=2,
    body={BY_ROW: 100},
    head={ProductKind(operator="MatMulNBits", bits=8, block_size=32, accuracy_level=4): 7},
    attention=3,
)


def test_a_decode_step_reads_the_weights_once_and_the_cache_of_every_row() -> None:
    # New tokens 2 … 5 look at 11 … 14 tokens, 12.5 on average.
    assert WORK.decode_bytes(1, 10, 5) == 1000 + 10 + 12.5 * 2
    assert WORK.decode_bytes(8, 10, 5) == 1000 + 8 * (10 + 12.5 * 2)
    assert sum(WORK.decode_multiplications(8, 10, 5).values()) == 8 * (100 + 7 + 3 * 12.5)


def test_a_prefill_is_causal_and_computes_one_row_of_logits_per_chunk() -> None:
    counts = WORK.prefill_multiplications(2, 10, chunk=4)
    assert counts[BY_ROW] == 2 * 10 * 100
    assert counts[FLOAT] == 2 * 3 * (10 * 11 / 2)
    assert sum(counts.values()) - counts[BY_ROW] - counts[FLOAT] == 2 * 3 * 7
    assert WORK.prefill_bytes(2, 10, chunk=4) == 3 * 1000 + 2 * 10 * 10
