"""Bundles built for a GPU: the graph in half precision, and TensorRT-RTX's engines, which need no GPU to be built."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from codegen_edge.bundle import Bundle, contract, open_bundle
from codegen_edge.cli import cli
from codegen_edge.errors import (
    BackendError,
    BundleError,
    InvalidInputError,
    NumericsError,
    RuntimeUnavailableError,
    StorageError,
)
from codegen_edge.exporter import ExportOptions, export_checkpoint, locate_checkpoint
from codegen_edge.ort_session import cpu_nodes, load_onnxruntime, open_device_session
from codegen_edge.quantization import QuantizeOptions, quantize_bundle
from codegen_edge.runtimes import open_runtime
from codegen_edge.runtimes.backends.ort import OrtRuntime
from codegen_edge.runtimes.builders import EngineOptions, build_engines, build_half, engine_bindings
from codegen_edge.runtimes.builders.compute_dtype import set_compute_dtype
from codegen_edge.runtimes.builders.engine_builder import EngineBuilder, check_bindings, dtype_name
from codegen_edge.runtimes.tensorrt_library import load_tensorrt
from tests.conftest import MakeCheckpoint

from .stand_ins import FakeBuilder, StreamingHost, fake_library

CPU = "CPUExecutionProvider"
TWO_GPUS = ("8.6", "8.9")


@pytest.fixture(scope="module")
def trained_static(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("bundle") / "trained-static"
    return export_checkpoint(locate_checkpoint("codegen-5M-mono"), out, ExportOptions(target="tensorrt"))


def on_the_cpu(bundle: Bundle) -> OrtRuntime:
    """The `cuda` runtime's parts, with ONNX Runtime's CPU provider in the place of CUDA."""
    session = open_device_session(bundle.model_path, load_onnxruntime(), [(CPU, {})])
    return OrtRuntime("cuda", bundle, session, cache_dtype=np.float16, device=StreamingHost())


@pytest.mark.parametrize("scheme", [None, "fp16", "int8", "int4"])
def test_graph_in_half_precision_computes_what_the_graph_does(
    scheme: str | None, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    """The graph and the KV cache that CUDA gets, on the CPU: equal but for rounding to 11 bits."""
    source = tiny_bundle
    if scheme is not None:
        options = QuantizeOptions(scheme=scheme, method="search")
        source, _ = quantize_bundle(tiny_bundle, tmp_path / "quantized", options)
    half = build_half(source, tmp_path / "half")
    assert half.manifest.compute == "fp16"
    assert half.size_bytes < 0.6 * source.size_bytes if scheme is None else half.size_bytes < 1.01 * source.size_bytes
    runtime, reference = on_the_cpu(half), open_runtime("cpu", source)
    ids = np.random.default_rng(0).integers(0, 300, (1, 20))
    cache = runtime.new_cache(1, 32)
    assert {buffer.dtype for buffer in cache.buffers.values()} == {np.dtype(np.float16)}
    parts = [runtime.step(ids[:, :12], cache, all_logits=True)[0]]
    parts += [runtime.step(ids[:, place : place + 1], cache) for place in range(12, 20)]
    expected = reference.step(ids, reference.new_cache(1, 32), all_logits=True)[0]
    difference = np.abs(np.concatenate(parts) - expected)
    # Activations of MatMulNBits are rounded to int8 on the CPU as well, so that a rounding may tip over.
    assert 0 < difference.max() < (0.15 if scheme in ("int8", "int4") else 0.03) * expected.std()
    runtime.close()


def test_half_graph_gives_float32_logits_and_no_float32_else(tiny_bundle: Bundle, tmp_path: Path) -> None:
    graph = onnx.load(str(build_half(tiny_bundle, tmp_path / "half").model_path), load_external_data=False).graph
    floats = {value.name for value in graph.output if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    assert floats == {contract.LOGITS}
    assert not [tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]


def test_bfloat16_is_written_as_such(tiny_bundle: Bundle, tmp_path: Path) -> None:
    built = build_half(tiny_bundle, tmp_path / "half", compute="bf16")
    graph = onnx.load(str(built.model_path), load_external_data=False).graph
    assert onnx.TensorProto.BFLOAT16 in {tensor.data_type for tensor in graph.initializer}
    assert open_bundle(built.path).manifest.compute == "bf16"


def test_what_float16_cannot_hold_is_named(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = make_checkpoint()
    weights = load_file(folder / "model.safetensors")
    weights["transformer.h.1.mlp.fc_in.weight"][3, 5] = 1e5
    save_file({name: tensor.to(torch.float32) for name, tensor in weights.items()}, folder / "model.safetensors")
    bundle = export_checkpoint(locate_checkpoint(str(folder)), tmp_path / "bundle")
    with pytest.raises(NumericsError, match=r"h\.1\.mlp\.fc_in\.weight holds a value beyond .*bf16 holds it"):
        build_half(bundle, tmp_path / "half")
    assert not (tmp_path / "half").exists()


def test_what_only_a_cpu_computes_is_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    dynamic, _ = quantize_bundle(tiny_bundle, tmp_path / "dynamic", QuantizeOptions(scheme="int8-dynamic"))
    with pytest.raises(BundleError, match="computes on CPUs only: take int8, int4 or fp16"):
        build_half(dynamic, tmp_path / "half")
    assert not (tmp_path / "half").exists()


def test_nodes_that_would_fall_to_the_cpu_are_listed(tiny_bundle: Bundle, tmp_path: Path) -> None:
    half = build_half(tiny_bundle, tmp_path / "half")
    session = open_device_session(half.model_path, load_onnxruntime(), [(CPU, {})])
    strays = cpu_nodes(session, "CUDAExecutionProvider")
    assert any(stray.startswith("MatMul") for stray in strays)
    assert any(stray.startswith("GroupQueryAttention") for stray in strays)
    assert not any(stray.startswith(("Shape", "ReduceSum")) for stray in strays)
    assert not cpu_nodes(session, CPU)


def test_provider_that_was_not_given_is_refused(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = build_half(tiny_bundle, tmp_path / "half")
    with (
        pytest.warns(UserWarning, match="MIGraphXExecutionProvider"),
        pytest.raises(RuntimeUnavailableError, match="was asked for, onnxruntime .* gave .*"),
    ):
        open_device_session(half.model_path, load_onnxruntime(), [("MIGraphXExecutionProvider", {}), (CPU, {})])


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_tensorrt_rtx_builds_engines_for_two_gpus(
    precision: str, trained_static: Bundle, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Real engines of the trained checkpoint. The builder compares names, shapes and dtypes of every binding."""
    source = trained_static
    if precision != "fp16":
        options = QuantizeOptions(scheme=precision, method="round")
        source, _ = quantize_bundle(trained_static, tmp_path / "quantized", options)
    builder = EngineBuilder(load_tensorrt("tensorrt-rtx"), TWO_GPUS)
    built = build_engines(source, tmp_path / "engines", builder, EngineOptions(chunk=16, batch_size=2))
    engines = open_bundle(built.path).manifest.engines
    assert engines is not None
    assert (engines.library, engines.compute_capabilities) == ("tensorrt-rtx", TWO_GPUS)
    sizes = [built.engine_path(phase).stat().st_size for phase in ("prefill", "decode")]
    weights = 5_254_656 * {"fp16": 2, "int8": 1, "int4": 0.5}[precision]
    # With the embedding, which stays float16, the LM head of int4 in 8 bits, and two GPUs' code.
    assert all(weights < size < weights + 5 * 2**20 for size in sizes), sizes
    name = f"TensorRT-RTX {engines.version}, {precision}, for {' and '.join(TWO_GPUS)}"
    record_property(name, f"prefill engine {sizes[0]:,} bytes, decode engine {sizes[1]:,} bytes")


def test_library_sees_a_scatter_into_each_buffer(trained_static: Bundle, tmp_path: Path) -> None:
    """Every present is the output of a KV cache update of its own past: TensorRT writes it in place."""
    library = load_tensorrt("tensorrt-rtx")
    seen: dict[str, str] = {}

    class Watching(EngineBuilder):
        def build(self, graph, inputs, outputs):  # type: ignore[no-untyped-def]
            api = self.library.api
            network = api.Builder(self.library.logger).create_network(0)
            parser = api.OnnxParser(network, self.library.logger)
            assert parser.parse_from_file(str(graph))
            for layer in (network.get_layer(index) for index in range(network.num_layers)):
                if "KVCACHE" in str(layer.type).upper().replace("_", ""):
                    seen[layer.get_output(0).name] = layer.get_input(0).name
            return b"engine"

    builder = Watching(library, TWO_GPUS)
    build_engines(trained_static, tmp_path / "engines", builder, EngineOptions(chunk=16))
    expected = {
        contract.present_name(layer, part): contract.past_name(layer, part)
        for layer in range(4)
        for part in contract.KV_PARTS
    }
    assert seen == expected


def test_bindings_that_differ_are_named(static_bundle: Bundle) -> None:
    api = load_tensorrt("tensorrt-rtx").api
    assert dtype_name(api, api.DataType.BF16) == "bfloat16"
    assert dtype_name(api, api.DataType.HALF) == "float16"
    with pytest.raises(BundleError, match=r"the input input_ids is None in the network, \(\(1, 4\), 'int64'\)"):
        check_bindings("input", {"input_ids": ((1, 4), "int64")}, [], api)


def test_engine_bindings_are_those_of_the_contract(engine_bundle: Bundle) -> None:
    manifest = engine_bundle.manifest
    assert manifest.engines is not None
    inputs, outputs = engine_bindings(manifest.model, manifest.engines, "fp16", 4)
    assert inputs["past_key_values.1.value"] == outputs["present.1.value"] == ((8, 4, 128 + 4, 16), "float16")
    assert inputs["input_ids"] == ((8, 4), "int64")
    assert outputs["logits"] == ((8, 4, 640), "float32")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capacity": 0}, "capacity must be in 1…128"),
        ({"capacity": 129}, "capacity must be in 1…128"),
        ({"chunk": 0}, "chunk must be at least 1"),
        ({"batch_size": -1}, "batch_size must be at least 1"),
        ({"compute": "fp8"}, "compute must be one of"),
    ],
)
def test_bad_sizes_are_refused(options: dict[str, int], message: str, static_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=message):
        build_engines(
            static_bundle,
            tmp_path / "out",
            FakeBuilder(fake_library()),
            EngineOptions(**options),  # type: ignore[arg-type]
        )
    assert list(tmp_path.iterdir()) == []


def test_build_that_fails_leaves_nothing(static_bundle: Bundle, tmp_path: Path) -> None:
    builder = EngineBuilder(load_tensorrt("tensorrt-rtx"), ("8.9",))
    # TensorRT-RTX has no kernel for attention of several tokens in float32.
    with pytest.raises(BackendError, match="could not build the engine: .*Attention"):
        build_engines(static_bundle, tmp_path / "out", builder, EngineOptions(compute="fp32", chunk=16))
    assert list(tmp_path.iterdir()) == []


def test_full_disk_leaves_nothing(static_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="no room left"):
        build_engines(static_bundle, tmp_path / "out", FakeBuilder(fake_library()))
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_compute_dtype_of_a_graph_with_symbols_stays_loadable(static_bundle: Bundle) -> None:
    import onnx_ir as ir

    model = ir.load(static_bundle.model_path)
    set_compute_dtype(model, "fp16")
    assert {str(value.dtype) for value in model.graph.inputs if "past_key" in str(value.name)} == {"FLOAT16"}
    assert model.graph.outputs[0].name == contract.LOGITS


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return 1, str(result.exception)
    return result.exit_code, result.output


def test_command_line_builds_engines_once(static_bundle: Bundle, tmp_path: Path) -> None:
    command = ["build", static_bundle.path, tmp_path / "out", "--runtime", "tensorrt", "--compute-capability", "8.9"]
    code, told = run(*command, "--chunk", 16)
    assert code == 0, told
    assert "tensorrt-rtx" in told
    assert "chunks of 16" in told
    assert "nothing to do" in run(*command, "--chunk", 16)[1]
    assert "allow to overwrite" in run(*command, "--chunk", 32)[1]
    assert "chunks of 32" in run(*command, "--chunk", 32, "--overwrite")[1]
    assert "tensorrt-rtx" in run("inspect", tmp_path / "out")[1]
    assert json.loads(run("inspect", tmp_path / "out", "--json")[1])["engines"]["chunk"] == 32


def test_command_line_builds_a_half_graph(tiny_bundle: Bundle, tmp_path: Path) -> None:
    code, told = run("build", tiny_bundle.path, tmp_path / "half", "--runtime", "cuda")
    assert (code, "computing in fp16" in told) == (0, True), told
    assert "computing in fp16" in run("inspect", tmp_path / "half")[1]
    assert not (tmp_path / "half" / "genai_config.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--runtime", "cuda", "--chunk", "8"], "chunk is of runtime tensorrt; cuda takes any batch"),
        (["--runtime", "cuda", "--compute", "fp32"], "computes in fp16 or bf16"),
        (["--runtime", "tensorrt", "--compute-capability", "9.9"], "builds for compute capabilities 7.5, 8.0"),
        (["--runtime", "tensorrt", "--compute-capability", "8.9"], "needs target tensorrt"),
    ],
)
def test_command_line_refuses(options: list[str], message: str, tiny_bundle: Bundle, tmp_path: Path) -> None:
    code, told = run("build", tiny_bundle.path, tmp_path / "out", *options)
    assert code == 1
    assert message in told
    assert list(tmp_path.iterdir()) == []


def test_built_bundle_is_verified_against_what_it_was_built_of(
    tiny_bundle: Bundle,
    static_bundle: Bundle,
    engine_bundle: Bundle,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from codegen_edge.evaluation.parity import verify
    from codegen_edge.exporter import open_checkpoint
    from codegen_edge.runtimes.backends.tensorrt import TensorRTRuntime

    def opened(name: str, bundle: Bundle) -> object:
        if name == "tensorrt":
            return TensorRTRuntime(bundle, fake_library(), StreamingHost())
        return on_the_cpu(bundle) if name == "cuda" else open_runtime(name, bundle)

    monkeypatch.setattr(verify, "open_runtime", opened)
    half = build_half(tiny_bundle, tmp_path / "half")
    report = verify.verify_built(half, tiny_bundle)
    assert report.is_equal
    assert report.max_abs_error > 1e-5
    report = verify.verify_built(engine_bundle, static_bundle)
    assert (report.runtime, report.is_equal, report.max_abs_error < 1e-4) == ("tensorrt", True, True)
    with pytest.raises(InvalidInputError, match="built for runtime cuda, not for cpu"):
        verify.verify_built(half, tiny_bundle, runtime="cpu")
    with pytest.raises(BundleError, match="built of another bundle"):
        verify.verify_built(half, static_bundle)
    with pytest.raises(BundleError, match="built of another bundle"):
        verify.verify_built(engine_bundle, tiny_bundle)
    with pytest.raises(BundleError, match="was not built for a GPU"):
        verify.verify_built(tiny_bundle, tiny_bundle)
    with pytest.raises(BundleError, match="against the bundle that it was built of"):
        verify.verify_bundle(half, open_checkpoint(tiny_checkpoint))


def test_command_line_verifies_what_was_built(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from codegen_edge.evaluation.parity import verify

    half = build_half(tiny_bundle, tmp_path / "half")
    command = ["verify", half.path, "--reference", tiny_bundle.path]
    code, told = run(*command, "--offline")
    assert (code, "offline are of a hub id" in told) == (1, True), told
    monkeypatch.setattr(
        verify,
        "open_runtime",
        lambda name, bundle: on_the_cpu(bundle) if name == "cuda" else open_runtime(name, bundle),
    )
    code, told = run(*command, "--report", tmp_path / "report.json")
    assert (code, "is equal to" in told) == (0, True), told
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["runtime"], report["reference"]["sha256"]) == ("cuda", tiny_bundle.fingerprint)
    assert "equal on cuda" in " ".join(run("inspect", half.path)[1].split())
