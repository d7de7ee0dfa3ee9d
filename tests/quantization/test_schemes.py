"""Every registered scheme, by the same tests."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from codegen_edge.bundle import Bundle, open_bundle
from codegen_edge.bundle.weights import Weight
from codegen_edge.errors import BundleError, InvalidInputError, NumericsError, RuntimeUnavailableError, StorageError
from codegen_edge.evaluation.parity.compare import kl_divergence
from codegen_edge.evaluation.quality.damage import kl_divergences, measure_damage
from codegen_edge.evaluation.quality.scoring import spread_sample
from codegen_edge.exporter import ExportOptions, export_checkpoint, locate_checkpoint
from codegen_edge.exporter.random_checkpoint import ModelShape, write_random_checkpoint
from codegen_edge.machine import has_vnni
from codegen_edge.quantization import QuantizeOptions, quantize_bundle
from codegen_edge.quantization.matrices import Matrix
from codegen_edge.quantization.plan import Making, PlanOptions
from codegen_edge.quantization.schemes import SCHEMES, rewrite_graph
from codegen_edge.runtimes import open_runtime
from codegen_edge.runtimes.backends.ort_cpu import OrtCpuRuntime
from codegen_edge.tokenizer import Tokenizer
from codegen_edge.workflows import export

# The most that a matrix's relative error may be, over all matrices; random weights are the hardest to quantize.
ERROR_BOUNDS = {"int8": 0.01, "int8-dynamic": 0.01, "int4": 0.16, "fp16": 0.0005}
RNG = np.random.default_rng(0)
DOCUMENTS = [RNG.integers(0, 300, 120) for _ in range(6)]

Quantized = Callable[..., tuple[Bundle, Any]]


@pytest.fixture(scope="module")
def quantized(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    made: dict[str, Any] = {}

    def quantize(scheme: str, **options: Any) -> tuple[Bundle, Any]:
        key = f"{scheme} {options}"
        if key not in made:
            out = tmp_path_factory.mktemp("quantized") / scheme
            made[key] = quantize_bundle(
                tiny_bundle, out, QuantizeOptions(scheme=scheme, **options), calibration_documents=DOCUMENTS
            )
        return made[key]  # type: ignore[no-any-return]

    return quantize


def logits_of(bundle: Bundle, num_tokens: int = 60) -> NDArray[np.float32]:
    """Prefill of most tokens, then one at a time."""
    token_ids = np.random.default_rng(5).integers(0, 300, (1, num_tokens))
    runtime = open_runtime("cpu", bundle)
    cache = runtime.new_cache(1, num_tokens)
    parts = [runtime.step(token_ids[:, :40], cache, all_logits=True)[0]]
    parts += [runtime.step(token_ids[:, n : n + 1], cache, all_logits=True)[0] for n in range(40, num_tokens)]
    runtime.close()
    return np.concatenate(parts)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_matrix_is_within_its_error_bound(scheme: str, quantized: Quantized) -> None:
    _, report = quantized(scheme)
    assert len(report.tensors) == 10
    for tensor in report.tensors:
        assert 0 < tensor.relative_error < ERROR_BOUNDS[scheme], tensor.name
        assert tensor.reason


@pytest.mark.parametrize("scheme", SCHEMES)
def test_graph_computes_with_what_the_report_dequantized(
    scheme: str, tiny_bundle: Bundle, quantized: Quantized
) -> None:
    """Codes, scales and zero points as the kernels read them, against float weights put back into the float graph."""
    bundle, _ = quantized(scheme)
    expected = logits_of(_with_dequantized_weights(tiny_bundle, scheme, bundle.path.parent / "float"))
    actual = logits_of(bundle)
    # What is left is the rounding of activations to int8 in the integer kernels, which no report can hold.
    rounding = np.abs(expected - actual).mean() / expected.std()
    assert rounding < (1e-6 if scheme == "fp16" else 0.05)
    wrong = np.abs(expected - np.roll(actual, 1, axis=0)).mean() / expected.std()
    assert rounding < wrong / 10


def test_bundle_for_vnni_computes_the_same_bits_there_and_runs_nowhere_else(
    quantized: Quantized, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, report = quantized("int8-dynamic", processor="vnni")
    portable, of_portable = quantized("int8-dynamic")
    assert [each.relative_error for each in report.tensors] == [each.relative_error for each in of_portable.tensors]
    assert (bundle.manifest.processor, portable.manifest.processor) == ("vnni", "any")
    initializers = onnx.load(str(bundle.model_path), load_external_data=False).graph.initializer
    assert sum(each.data_type == onnx.TensorProto.INT8 for each in initializers if each.name.endswith(".codes")) == 8
    if has_vnni():
        np.testing.assert_array_equal(logits_of(bundle), logits_of(portable))
    monkeypatch.setattr("codegen_edge.machine.processor_features", lambda: dict.fromkeys(("avx_vnni", "avx512_vnni")))
    with pytest.raises(RuntimeUnavailableError, match="would saturate"):
        open_runtime("cpu", bundle)
    logits_of(portable)


def test_processor_goes_with_a_scheme_that_depends_on_it() -> None:
    with pytest.raises(InvalidInputError, match="int8 is the same for every processor"):
        QuantizeOptions(scheme="int8", processor="vnni")
    with pytest.raises(InvalidInputError, match="processor must be one of any, vnni, got 'z80'"):
        QuantizeOptions(scheme="int8-dynamic", processor="z80")  # type: ignore[arg-type]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_is_smaller_and_says_by_how_much(scheme: str, tiny_bundle: Bundle, quantized: Quantized) -> None:
    bundle, report = quantized(scheme)
    before, after = (
        sum(getattr(tensor, name) for tensor in report.tensors) for name in ("bytes_before", "bytes_after")
    )
    data = [each.manifest.files["onnx/model.onnx_data"].size_bytes for each in (tiny_bundle, bundle)]
    # All but padding to cache lines and pages.
    assert data[0] - data[1] == pytest.approx(before - after, rel=0.1)
    assert bundle.manifest.precision == scheme
    stored = json.loads((bundle.path / "quantization_report.json").read_text())
    assert [tensor["name"] for tensor in stored["tensors"]] == [tensor.name for tensor in report.tensors]
    onnx.checker.check_model(str(bundle.model_path), check_custom_domain=False)
    assert not [name for name in _initializers(bundle) if name.endswith("weight") and "ln_" not in name]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_onnxruntime_genai_generates_our_tokens(scheme: str, quantized: Quantized) -> None:
    import onnxruntime_genai as genai

    from codegen_edge.generation import GenerationLoop, GenerationParams

    bundle, _ = quantized(scheme)
    prompt = [3, 50, 120, 7]
    model = genai.Model(str(bundle.path))
    params = genai.GeneratorParams(model)
    params.set_search_options(max_length=20, do_sample=False)
    generator = genai.Generator(model, params)
    generator.append_tokens(prompt)
    while not generator.is_done():
        generator.generate_next_token()
    runtime = open_runtime("cpu", bundle)
    ours = [event.token_id for event in GenerationLoop(runtime, [prompt], GenerationParams(max_new_tokens=16))]
    assert generator.get_sequence(0).tolist()[4:] == ours


@pytest.mark.parametrize("scheme", SCHEMES)
def test_export_in_one_pass_gives_the_same_bytes(
    scheme: str, tiny_checkpoint: Path, quantized: Quantized, tmp_path: Path
) -> None:
    bundle, _ = quantized(scheme, method="search")
    exported = export_checkpoint(
        locate_checkpoint(str(tiny_checkpoint)),
        tmp_path / "bundle",
        ExportOptions(precision=scheme),
        rewrite=lambda model: rewrite_graph(model, scheme, PlanOptions(method="search")),
    )
    assert exported.manifest.files["onnx/model.onnx_data"] == bundle.manifest.files["onnx/model.onnx_data"]
    np.testing.assert_array_equal(logits_of(exported), logits_of(bundle))


def test_export_rounds_when_asked_and_says_so(tiny_checkpoint: Path, quantized: Quantized, tmp_path: Path) -> None:
    exported = export(tiny_checkpoint, tmp_path / "out", precision="int4", method="round", verify=False)
    wanted, _ = quantized("int4", method="round")
    assert exported.bundle.manifest.files["onnx/model.onnx_data"] == wanted.manifest.files["onnx/model.onnx_data"]
    assert exported.quantization is not None
    assert exported.quantization.options["method"] == "round"


@pytest.mark.parametrize("scheme", ["int8", "int4"])
@pytest.mark.parametrize("is_symmetric", [True, False])
def test_rows_that_no_block_divides_are_padded(
    scheme: str, is_symmetric: bool, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    shape = ModelShape(n_layer=1, n_embd=192, n_head=4, rotary_dim=16, vocab_size=700, n_positions=64)
    float_bundle = export_checkpoint(locate_checkpoint(str(make_checkpoint(shape))), tmp_path / "float")
    options = QuantizeOptions(scheme=scheme, block_size=128, is_symmetric=is_symmetric, method="search")
    bundle, report = quantize_bundle(float_bundle, tmp_path / "q", options)
    assert {tensor.name for tensor in report.tensors} >= {"transformer.wte.weight", "lm_head.weight"}
    expected, actual = logits_of(float_bundle, 50), logits_of(bundle, 50)
    assert np.abs(expected - actual).mean() < (0.4 if scheme == "int4" else 0.04) * expected.std()


def test_damage_of_a_model_beside_itself_is_none(tiny_bundle: Bundle, quantized: Quantized) -> None:
    tokenizer = Tokenizer(tiny_bundle.tokenizer_path)
    runtimes = [open_runtime("cpu", bundle) for bundle in (tiny_bundle, tiny_bundle, quantized("int4")[0])]
    texts = ["def f(x):\n    return x\n" * 20]
    same = measure_damage(runtimes[0], runtimes[1], tokenizer, texts)
    assert (same.top1_agreement, same.perplexity_loss) == (1.0, 0.0)
    assert same.max_kl < 1e-9
    other = measure_damage(runtimes[2], runtimes[1], tokenizer, texts)
    assert other.mean_kl > 1e-3
    assert other.top1_agreement < 1


def test_measuring_takes_the_beginnings_of_all_documents() -> None:
    documents = [np.arange(length) for length in (5000, 300, 1, 4000, 20, 900)]
    sample = spread_sample(documents, 2000)
    assert sum(len(each) - 1 for each in sample) == 2000
    assert min(len(each) - 1 for each in sample) == 19
    assert len(sample) == 5  # all but the one that predicts nothing
    for each, whole in zip(sample, (documents[0], documents[1], documents[3], documents[4], documents[5]), strict=True):
        np.testing.assert_array_equal(each, whole[: len(each)])
    few = spread_sample(documents, 600)
    assert len(few) == 2
    assert {each[0] for each in few} == {0}
    assert spread_sample(documents, None)[0] is documents[0]
    assert spread_sample([], 100) == []


def test_damage_has_intervals_over_documents(tiny_bundle: Bundle, quantized: Quantized) -> None:
    tokenizer = Tokenizer(tiny_bundle.tokenizer_path)
    runtimes = [open_runtime("cpu", bundle) for bundle in (quantized("int4")[0], tiny_bundle)]
    texts = ["def f(x):\n    return x\n" * 9, "import os\n" * 20, "class A:\n    pass\n" * 12, "x = 1\n" * 30]
    damage = measure_damage(runtimes[0], runtimes[1], tokenizer, texts)
    assert damage.num_documents == 4
    for interval, value in (
        (damage.perplexity_loss_interval, damage.perplexity_loss),
        (damage.mean_kl_interval, damage.mean_kl),
        (damage.top1_interval, damage.top1_agreement),
    ):
        assert interval is not None
        assert interval[0] <= value <= interval[1]
        assert interval[0] < interval[1]
    assert measure_damage(runtimes[0], runtimes[1], tokenizer, texts[:1]).mean_kl_interval is None


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_zero_points_of_the_embedding_table_are_written(scheme: str, quantized: Quantized) -> None:
    """Without them GatherBlockQuantized means 128 on the CPU, and in some releases 0 on CUDA."""
    bundle, _ = quantized(scheme)
    (node,) = [node for node in ir.load(bundle.model_path).graph if node.op_type == "GatherBlockQuantized"]
    assert len(node.inputs) == 4
    points = node.inputs[3]
    assert points is not None
    assert points.const_value is not None
    if scheme == "int8":
        assert set(np.unique(points.const_value.numpy())) == {128}


def test_a_reference_for_gpus_leaves_activations_unrounded(tiny_bundle: Bundle, quantized: Quantized) -> None:
    """GPUs do; against the rounding reference a right GPU would look wrong."""
    bundle, _ = quantized("int8")
    ids = np.random.default_rng(5).integers(0, 300, (1, 40))
    logits = {}
    for rounds in (True, False):
        runtime = OrtCpuRuntime(bundle, rounds_activations=rounds)
        logits[rounds] = runtime.step(ids, runtime.new_cache(1, 40), all_logits=True)[0]
        runtime.close()
    exact = dequantized_runtime(tiny_bundle, bundle)
    truth = exact.step(ids, exact.new_cache(1, 40), all_logits=True)[0]
    assert np.abs(logits[False] - truth).max() < 2e-4
    assert np.abs(logits[True] - truth).max() > 10 * np.abs(logits[False] - truth).max()


def dequantized_runtime(float_bundle: Bundle, bundle: Bundle) -> OrtCpuRuntime:
    """The float graph with the weights that an int8 bundle's codes stand for."""
    graph = ir.load(bundle.model_path).graph
    stored = {name: value.const_value.numpy() for name, value in graph.initializers.items() if value.const_value}
    weights = {}
    for node in graph:
        if node.op_type not in ("MatMulNBits", "GatherBlockQuantized"):
            continue
        codes, scales = (node.inputs[place] for place in ((0, 2) if node.op_type != "MatMulNBits" else (1, 2)))
        assert codes is not None
        assert scales is not None
        block = node.attributes["block_size"].as_int()
        rows = np.asarray(stored[str(codes.name)], np.float32).reshape(len(stored[str(scales.name)]), -1, block)
        by_row = ((rows - 128) * stored[str(scales.name)][..., None]).reshape(len(rows), -1)
        name = str(codes.name).removesuffix(".codes")
        weights[name] = by_row if node.op_type == "GatherBlockQuantized" else np.ascontiguousarray(by_row.T)
    return OrtCpuRuntime(float_bundle, weights=weights)


def test_divergences_are_those_of_parity() -> None:
    rng = np.random.default_rng(2)
    expected, actual = rng.standard_normal((2, 9, 50)).astype(np.float32) * 3
    each = [kl_divergence(p, q) for p, q in zip(expected, actual, strict=True)]
    np.testing.assert_allclose(kl_divergences(expected, actual), each, rtol=1e-5)


def test_quantized_bundle_is_refused(quantized: Quantized, tmp_path: Path) -> None:
    bundle, _ = quantized("int8")
    with pytest.raises(BundleError, match="is int8 already"):
        quantize_bundle(bundle, tmp_path / "again", QuantizeOptions(scheme="int4"))
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "int3"}, "no scheme 'int3'"),
        ({"scheme": "int4", "method": "awq"}, "no method 'awq'"),
        ({"scheme": "int4", "block_size": 48}, "power of two >= 16, got 48"),
        ({"scheme": "int8-dynamic", "block_size": 32}, "takes no block_size"),
        ({"scheme": "fp16", "block_size": 32}, "takes no block_size"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        QuantizeOptions(**options)


def test_block_longer_than_a_row_is_refused_and_nothing_written(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(
        InvalidInputError, match=r"block_size 128 does not fit transformer.wte.weight.* have 64 weights"
    ):
        quantize_bundle(tiny_bundle, tmp_path / "out", QuantizeOptions(scheme="int8", block_size=128))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(value: float, tiny_bundle: Bundle, tmp_path: Path) -> None:
    broken = _with_weight(tiny_bundle, "transformer.h.1.mlp.fc_in.weight", value, tmp_path / "broken")
    with pytest.raises(NumericsError, match=r"transformer.h.1.mlp.fc_in.weight holds NaN or infinity"):
        quantize_bundle(broken, tmp_path / "out", QuantizeOptions(scheme="int8"))
    assert not (tmp_path / "out").exists()


def test_values_beyond_float16_are_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    broken = _with_weight(tiny_bundle, "transformer.h.0.attn.out_proj.weight", 1e5, tmp_path / "large")
    with pytest.raises(NumericsError, match=r"out_proj.weight holds a value beyond float16"):
        quantize_bundle(broken, tmp_path / "out", QuantizeOptions(scheme="fp16"))


def test_gptq_without_text_is_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no tokens"):
        quantize_bundle(tiny_bundle, tmp_path / "out", QuantizeOptions(scheme="int4"))


def test_interrupted_quantization_leaves_the_old_bundle(tiny_bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first, _ = quantize_bundle(tiny_bundle, out, QuantizeOptions(scheme="int8"))

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_bundle(tiny_bundle, out, QuantizeOptions(scheme="fp16", overwrite=True), on_progress=interrupt)
    assert open_bundle(out).manifest == first.manifest
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_full_disk_is_told_and_nothing_stays(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(StorageError, match="nothing was written"):
        quantize_bundle(tiny_bundle, tmp_path / "out", QuantizeOptions(scheme="int8"))
    assert list(tmp_path.iterdir()) == []


def test_int4_keeps_the_head_at_8_bits_unless_told_otherwise(quantized: Quantized) -> None:
    settings: dict[str, dict[str, Any]] = {"head": {}, "none": {"kept_at_8_bits": frozenset()}}
    forms = {
        kept: {tensor.name: tensor.form for tensor in quantized("int4", **options)[1].tensors}
        for kept, options in settings.items()
    }
    assert forms["head"].pop("lm_head.weight").startswith("int8")
    assert forms["none"].pop("lm_head.weight").startswith("int4")
    assert forms["head"] == forms["none"]
    assert all(form.startswith("int4") for form in forms["head"].values())


def test_blocks_are_smaller_where_the_error_costs_most(trained_bundle: Bundle, tmp_path: Path) -> None:
    forms = {}
    for scheme in ("int8", "int4"):
        options = QuantizeOptions(scheme=scheme, method="round")
        _, report = quantize_bundle(trained_bundle, tmp_path / scheme, options)
        forms[scheme] = {tensor.name.removeprefix("transformer."): tensor.form for tensor in report.tensors}
    assert {name: form for name, form in forms["int8"].items() if "128" not in form}.keys() == {"lm_head.weight"}
    assert "32" in forms["int8"]["lm_head.weight"]
    assert "128" in forms["int4"]["lm_head.weight"]
    assert "32" in forms["int4"]["h.0.attn.out_proj.weight"]
    assert "64" in forms["int4"]["h.0.attn.qkv_proj.weight"]
    assert forms["int4"]["wte.weight"] != forms["int4"]["h.0.attn.qkv_proj.weight"]  # with zero points


@pytest.fixture(scope="module")
def wide_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """One block, and two tables of 64 MiB."""
    folder = tmp_path_factory.mktemp("wide")
    shape = ModelShape(n_layer=1, n_embd=256, n_head=4, rotary_dim=32, n_positions=64, vocab_size=65_536)
    write_random_checkpoint(folder / "checkpoint", shape)
    return export_checkpoint(locate_checkpoint(str(folder / "checkpoint")), folder / "bundle")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_memory_stays_below_three_times_the_largest_tensor(scheme: str, wide_bundle: Bundle, tmp_path: Path) -> None:
    """With what is mapped of it: the bound of an export, less what Python and its libraries take."""
    largest = 65_536 * 256 * 4
    tracemalloc.start()
    try:
        quantize_bundle(wide_bundle, tmp_path / "out", QuantizeOptions(scheme=scheme, method="round"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * largest


def _initializers(bundle: Bundle) -> list[str]:
    return [tensor.name for tensor in onnx.load(str(bundle.model_path), load_external_data=False).graph.initializer]


def _with_weight(bundle: Bundle, name: str, value: float, folder: Path) -> Bundle:
    """A copy of the bundle with a weight's first element changed; its hashes are not looked at."""
    shutil.copytree(bundle.path, folder)
    model = ir.load(folder / "onnx" / "model.onnx")
    tensor = model.graph.initializers[name].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    with (folder / "onnx" / "model.onnx_data").open("r+b") as file:
        file.seek(tensor.offset or 0)
        file.write(np.float32(value).tobytes())
    return Bundle(folder, bundle.manifest)


def _with_dequantized_weights(bundle: Bundle, scheme: str, folder: Path) -> Bundle:
    """The float bundle with what a scheme made of its weights."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(bundle.path, folder)
    made: dict[str, NDArray[np.float32]] = {}

    def on_rows(matrix: Matrix, first: int, weights: Weight, dequantized: Weight) -> None:
        shape = (matrix.rows, matrix.columns)
        by_row = made.setdefault(
            matrix.name, np.empty(shape if matrix.kind == "embedding" else shape[::-1], np.float32)
        )
        matrix.rows_of(by_row, slice(first, first + len(weights)))[...] = dequantized

    from codegen_edge.bundle.weights import load_graph
    from codegen_edge.quantization.calibration import Calibration

    model, read = load_graph(bundle)
    making = Making(second_moment=Calibration(bundle, DOCUMENTS).second_moment, on_rows=on_rows)
    for group in rewrite_graph(model, scheme, PlanOptions(method="gptq"), making):
        group.make(read(group.source))
    original = ir.load(folder / "onnx" / "model.onnx")
    with (folder / "onnx" / "model.onnx_data").open("r+b") as file:
        for name, weight in made.items():
            tensor = original.graph.initializers[name].const_value
            assert isinstance(tensor, ir.ExternalTensor)
            file.seek(tensor.offset or 0)
            file.write(np.ascontiguousarray(weight, np.float32).tobytes())
    return Bundle(folder, bundle.manifest)
