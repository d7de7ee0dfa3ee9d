"""The static graph that TensorRT gets: computed by ONNX Runtime, equal to the reference, of operators that it takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from codegen_edge import open_bundle
from codegen_edge.bundle import Bundle
from codegen_edge.cli import cli
from codegen_edge.errors import BundleError, UnsupportedModelError
from codegen_edge.evaluation.parity.verify import verify_bundle
from codegen_edge.exporter import ExportOptions, export_checkpoint, locate_checkpoint, open_checkpoint
from codegen_edge.generation.model import load_model
from codegen_edge.quantization import QuantizeOptions, quantize_bundle
from codegen_edge.runtimes import open_runtime
from tests.fuzz.children import in_child

ALLOWED = {"", "ai.onnx"}


def test_graph_has_onnx_operators_only_and_one_output_attention(static_bundle: Bundle) -> None:
    model = onnx.load(str(static_bundle.model_path), load_external_data=False)
    onnx.checker.check_model(str(static_bundle.model_path))
    assert {node.domain for node in model.graph.node} <= ALLOWED
    operators = [node.op_type for node in model.graph.node]
    layers = static_bundle.manifest.model.num_layers
    assert operators.count("TensorScatter") == 2 * layers
    assert operators.count("Attention") == layers
    assert all(len(node.output) == 1 for node in model.graph.node if node.op_type == "Attention")
    assert not {"SplitToSequence", "Loop", "If", "Scan"} & set(operators)
    assert not (static_bundle.path / "genai_config.json").exists()


def test_static_bundle_equals_the_reference(static_bundle: Bundle, tiny_checkpoint: Path) -> None:
    report = verify_bundle(static_bundle, open_checkpoint(tiny_checkpoint))
    assert report.runtime == "static-cpu"
    assert report.is_equal


def test_command_line_exports_verifies_and_generates(tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "static")
    exported = CliRunner().invoke(cli, ["export", str(tiny_checkpoint), out, "--target", "tensorrt"])
    assert exported.exit_code == 0, exported.output
    assert "equal to the reference" in exported.output
    assert CliRunner().invoke(cli, ["verify", out, "--reference", str(tiny_checkpoint)]).exit_code == 0
    arguments = ["generate", out, "--prompt", "def f", "--max-new-tokens", "8", "--runtime", "static-cpu"]
    assert CliRunner().invoke(cli, arguments).exit_code == 0


def test_static_runtime_gives_the_tokens_of_the_cpu_runtime(static_bundle: Bundle, tiny_bundle: Bundle) -> None:
    prompts = ["def hello_world():", "import os\n" * 9, "x"]
    with load_model(static_bundle.path, runtime="static-cpu") as static, load_model(tiny_bundle.path) as plain:
        expected = [completion.token_ids for completion in plain.generate(prompts, max_new_tokens=30)]
        assert [completion.token_ids for completion in static.generate(prompts, max_new_tokens=30)] == expected


def test_padding_never_reaches_a_row_that_is_full(static_bundle: Bundle) -> None:
    """A prefill that ends within a chunk, to the last position of the context."""
    runtime = open_runtime("static-cpu", static_bundle)
    length = runtime.config.context_length
    ids = np.random.default_rng(0).integers(0, 300, (2, length))
    whole = runtime.step(ids, runtime.new_cache(2, length), all_logits=True)
    cache = runtime.new_cache(2, length)
    runtime.step(ids[:, : length - 3], cache, counts=np.array([length - 3, 5]))
    for position in range(length - 3, length):
        token_ids = np.stack([ids[0, position : position + 1], ids[1, 5 + position - (length - 3) :][:1]])
        logits = runtime.step(token_ids, cache)
    assert np.abs(logits[0] - whole[0, -1]).max() < 2e-5
    assert np.abs(logits[1] - whole[1, 7]).max() < 2e-5
    runtime.close()


def test_each_runtime_refuses_the_other_target(static_bundle: Bundle, tiny_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="runtime cpu needs target ort$"):
        open_runtime("cpu", static_bundle)
    with pytest.raises(BundleError, match="runtime static-cpu needs target tensorrt"):
        open_runtime("static-cpu", tiny_bundle)


def test_static_runtime_is_refused_in_a_fork(static_bundle: Bundle) -> None:
    runtime = open_runtime("static-cpu", static_bundle, threads=2)
    ids = np.array([[5]], np.int64)
    assert runtime.step(ids, runtime.new_cache(1, 8)).shape == (1, runtime.config.vocab_size)
    ended = in_child(lambda: str(runtime.step(ids, runtime.new_cache(1, 8))), seconds=60)
    assert (ended.outcome, "of which this one is a fork" in ended.words) == ("error", True), ended
    runtime.close()


def test_features_have_no_static_target(tiny_checkpoint: Path, tmp_path: Path) -> None:
    options = ExportOptions(task="feature-extraction", target="tensorrt")
    with pytest.raises(UnsupportedModelError, match="for text generation"):
        export_checkpoint(locate_checkpoint(str(tiny_checkpoint)), tmp_path / "out", options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scheme", ["int8", "int4", "fp16"])
def test_quantized_static_bundle_runs(scheme: str, static_bundle: Bundle, tmp_path: Path) -> None:
    bundle, _ = quantize_bundle(static_bundle, tmp_path / "out", QuantizeOptions(scheme=scheme, method="search"))
    assert open_bundle(tmp_path / "out").manifest.target == "tensorrt"
    operators = {node.op_type for node in onnx.load(str(bundle.model_path), load_external_data=False).graph.node}
    assert not {"MatMulNBits", "GatherBlockQuantized"} & operators
    runtimes = [open_runtime("static-cpu", each) for each in (bundle, static_bundle)]
    ids = np.random.default_rng(0).integers(0, 300, (1, 20))
    found, expected = (runtime.step(ids, runtime.new_cache(1, 32), all_logits=True) for runtime in runtimes)
    assert 0 < np.abs(found - expected).mean() < {"int8": 0.05, "int4": 0.5, "fp16": 0.005}[scheme] * expected.std()


@pytest.mark.parametrize("options", [{"scheme": "int8", "kv_cache": "int8"}, {"scheme": "int4"}])
def test_calibration_needs_the_graph_of_the_cpu_runtime(
    options: dict[str, str], static_bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="needs target ort"):
        quantize_bundle(static_bundle, tmp_path / "out", QuantizeOptions(**options))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
