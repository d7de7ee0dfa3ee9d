"""The form for TensorRT, computed by ONNX Runtime: equal to the float graph with the weights that the codes mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray

from codegen_edge.bundle import Bundle, contract
from codegen_edge.bundle.weights import Weight, all_groups, load_graph, write_graph, write_weights
from codegen_edge.errors import InvalidInputError
from codegen_edge.quantization.matrices import Matrix
from codegen_edge.quantization.plan import Making, PlanOptions
from codegen_edge.quantization.schemes import rewrite_graph

TOKENS = np.random.default_rng(0).integers(0, 300, (1, 12))


def write(bundle: Bundle, scheme: str, folder: Path, **options: Any) -> dict[str, NDArray[np.float32]]:
    """Write the graph in this form; give what the codes stand for, in the graph's layout."""
    meant: dict[str, NDArray[np.float32]] = {}

    def on_rows(matrix: Matrix, first: int, weights: Weight, dequantized: Weight) -> None:
        whole = meant.setdefault(matrix.name, np.empty((matrix.columns, matrix.rows), np.float32))
        matrix.rows_of(whole, slice(first, first + len(weights)))[...] = dequantized

    model, read = load_graph(bundle)
    groups = rewrite_graph(model, scheme, PlanOptions(target="tensorrt", **options), Making(on_rows=on_rows))
    (folder / "onnx").mkdir()
    write_weights(all_groups(model, groups), read, folder)
    write_graph(model, folder)
    return meant


def logits(bundle: Bundle, model: Path, weights: dict[str, NDArray[np.float32]] | None = None) -> NDArray[np.float32]:
    config = bundle.manifest.model
    empty = np.zeros((1, config.num_heads, 0, config.head_dim), np.float32)
    feed = {contract.INPUT_IDS: TOKENS, contract.ATTENTION_MASK: np.ones_like(TOKENS)} | {
        contract.past_name(layer, part): empty for layer in range(config.num_layers) for part in contract.KV_PARTS
    }
    options = onnxruntime.SessionOptions()
    # Its optimizations put MatMulNBits in the form's place, which rounds activations as well.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    given = {name: onnxruntime.OrtValue.ortvalue_from_numpy(weight) for name, weight in (weights or {}).items()}
    options.add_external_initializers(list(given), list(given.values()))
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run([contract.LOGITS], feed)[0], np.float32)


@pytest.mark.parametrize(
    ("scheme", "options"),
    [("int8", {}), ("int4", {"method": "round"}), ("int4", {"method": "search", "block_size": 32})],
    ids=["int8", "int4", "int4 search"],
)
def test_onnxruntime_computes_with_what_the_codes_mean(
    scheme: str, options: dict[str, Any], tiny_bundle: Bundle, tmp_path: Path
) -> None:
    meant = write(tiny_bundle, scheme, tmp_path, **options)
    expected = logits(tiny_bundle, tiny_bundle.model_path, meant)
    found = logits(tiny_bundle, tmp_path / "onnx" / "model.onnx")
    assert np.abs(found - expected).max() < 1e-4
    assert np.abs(found - logits(tiny_bundle, tiny_bundle.model_path)).max() > 1e-3


@pytest.mark.parametrize(("scheme", "dtype"), [("int8", "INT8"), ("int4", "INT4")])
def test_codes_are_signed_and_scales_positive(scheme: str, dtype: str, tiny_bundle: Bundle, tmp_path: Path) -> None:
    write(tiny_bundle, scheme, tmp_path, kept_at_8_bits=frozenset())
    model = ir.load(tmp_path / "onnx" / "model.onnx")
    initializers = model.graph.initializers
    nodes = [node for node in model.graph if node.op_type == "DequantizeLinear"]
    assert len(nodes) == 2 * 4 + 1  # the linear layers of two blocks, and the head; never the embedding
    for node in nodes:
        codes, scales = (initializers[str(value.name)].const_value for value in node.inputs if value)
        assert codes is not None
        assert scales is not None
        assert codes.dtype.name == dtype
        assert (scales.numpy() > 0).all()
        assert codes.numpy().astype(np.int32).min() < 0 < codes.numpy().astype(np.int32).max()
    onnx.checker.check_model(str(tmp_path / "onnx" / "model.onnx"))


@pytest.mark.parametrize(
    ("scheme", "options", "message"),
    [
        ("int4", {"is_symmetric": False}, "symmetric"),
        ("int4", {"block_size": 128}, "does not fit"),
        ("int8-dynamic", {}, "TensorRT takes int8 or int4"),
    ],
)
def test_what_tensorrt_cannot_take_is_refused(
    scheme: str, options: dict[str, Any], message: str, tiny_bundle: Bundle
) -> None:
    model, _ = load_graph(tiny_bundle)
    with pytest.raises(InvalidInputError, match=message):
        rewrite_graph(model, scheme, PlanOptions(target="tensorrt", **options))
