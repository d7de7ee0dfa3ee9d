"""What is special about runtime openvino: its devices, its precision, what its reader refuses, its states."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import openvino
import pytest
from click.testing import CliRunner

from codegen_edge.bundle import Bundle, contract, open_bundle
from codegen_edge.cli import cli
from codegen_edge.errors import (
    BackendError,
    BundleError,
    IncompatibleVersionError,
    IntegrityError,
    InvalidInputError,
    RuntimeUnavailableError,
)
from codegen_edge.generation.model import load_model
from codegen_edge.quantization import QuantizeOptions, quantize_bundle
from codegen_edge.runtimes import Runtime, open_runtime
from codegen_edge.runtimes.backends.openvino import OpenVINORuntime
from codegen_edge.runtimes.backends.ort_cpu import OrtCpuRuntime
from tests.fuzz.children import in_child

IDS = np.arange(3, 35, dtype=np.int64)[None]


def opened(bundle: Bundle, **options: Any) -> OpenVINORuntime:
    runtime = open_runtime("openvino", bundle, **options)
    assert isinstance(runtime, OpenVINORuntime)
    return runtime


def logits_of(runtime: Runtime) -> np.ndarray[Any, np.dtype[np.float32]]:
    """[T, V] of a prefill of 20 tokens, then of 12 single steps."""
    cache = runtime.new_cache(1, IDS.shape[1])
    prefill = runtime.step(IDS[:, :20], cache, all_logits=True)[0]
    steps = [runtime.step(IDS[:, place : place + 1], cache)[0] for place in range(20, IDS.shape[1])]
    return np.concatenate([prefill, np.stack(steps)])


def quantized_bundle(bundle: Bundle, out: Path, scheme: str) -> Bundle:
    """Without calibration."""
    options = QuantizeOptions(scheme=scheme, method="round") if scheme == "int4" else QuantizeOptions(scheme=scheme)
    return quantize_bundle(bundle, out, options)[0]


def test_computes_in_float32_with_the_threads_that_were_asked_for(tiny_bundle: Bundle) -> None:
    compiled = opened(tiny_bundle, threads=1)._compiled
    assert compiled is not None
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
    assert compiled.get_property("KV_CACHE_PRECISION") == openvino.Type.f32
    assert compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == 32
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled.get_property("EXECUTION_DEVICES") == ["CPU"]


def test_keys_and_values_stay_in_states(trained_bundle: Bundle) -> None:
    compiled = opened(trained_bundle)._compiled
    assert compiled is not None
    assert {value.get_any_name() for value in compiled.outputs} == {contract.LOGITS}
    kinds = [node.get_rt_info()["layerType"].astype(str) for node in compiled.get_runtime_model().get_ops()]
    # The plugin's own attention, which appends to the states in place, and not the operators that it is made of.
    assert kinds.count("ScaledDotProductAttention") == trained_bundle.manifest.model.num_layers


@pytest.mark.parametrize(
    ("devices", "precision"), [(["GPU.0"], openvino.Type.f32), (["CPU"], openvino.Type.bf16)], ids=["device", "bf16"]
)
def test_another_device_or_precision_than_asked_for_is_refused(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, devices: list[str], precision: openvino.Type
) -> None:
    given = {"EXECUTION_DEVICES": devices, "INFERENCE_PRECISION_HINT": precision}
    compiled = SimpleNamespace(get_property=given.__getitem__)
    monkeypatch.setattr(openvino.Core, "compile_model", lambda *_: compiled)
    with pytest.raises(RuntimeUnavailableError, match="CPU in f32 was asked for, openvino .* computes on"):
        opened(tiny_bundle)


@pytest.mark.parametrize("device", ["GPU.7", "AUTO", "HETERO:GPU,CPU", "cpu", ""])
def test_device_that_is_not_here_is_refused_by_name(tiny_bundle: Bundle, device: str) -> None:
    with pytest.raises(RuntimeUnavailableError, match=f"finds no device '{device}' here; it finds: .*CPU") as caught:
        opened(tiny_bundle, device_id=device)
    assert caught.value.hint == "codegen-edge doctor"


def test_number_of_a_gpu_is_no_device(tiny_bundle: Bundle) -> None:
    with pytest.raises(InvalidInputError, match="device_id must be the name of a device, CPU, GPU or NPU, got 0"):
        opened(tiny_bundle, device_id=0)


def test_threads_are_the_cpus(tiny_bundle: Bundle) -> None:
    with pytest.raises(InvalidInputError, match="threads must be left out with device GPU"):
        opened(tiny_bundle, device_id="GPU", threads=2)


@pytest.mark.parametrize("threads", [0, -1, 10**6])
def test_bad_thread_count_is_refused(tiny_bundle: Bundle, threads: int) -> None:
    with pytest.raises(InvalidInputError, match="threads must be an integer in 1"):
        opened(tiny_bundle, threads=threads)


def test_missing_openvino_names_the_extra(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(RuntimeUnavailableError, match=r"needs openvino .* pip install .*openvino"):
        opened(tiny_bundle)


def test_version_outside_the_range_is_refused(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codegen_edge.dependencies.installed_version", lambda _: "2023.0.0")
    monkeypatch.setattr("codegen_edge.dependencies._requirements", _range_of_openvino)
    monkeypatch.setattr("codegen_edge.dependencies._ranges", _ranges)
    with pytest.raises(IncompatibleVersionError, match="openvino 2023.0.0 is installed"):
        opened(tiny_bundle)


def test_reader_has_no_tensor_scatter_and_the_error_says_what_to_take(static_bundle: Bundle) -> None:
    """The first half keeps docs/openvino.md true: where it fails, the static bundle can be read, too."""
    with pytest.raises(RuntimeError, match="TensorScatter"):
        openvino.Core().read_model(static_bundle.model_path)
    with pytest.raises(BundleError, match="is a graph for tensorrt; runtime openvino needs target ort") as caught:
        opened(static_bundle)
    assert caught.value.hint == "codegen-edge export CHECKPOINT OUT --target ort"


@pytest.mark.parametrize("content", [b"", b"not a graph", b"<html>404</html>"])
def test_graph_that_the_reader_refuses_is_one_line(bundle_copy: Bundle, content: bytes) -> None:
    bundle_copy.model_path.write_bytes(content)
    with pytest.raises(BundleError, match="openvino .* cannot read") as caught:
        opened(Bundle(bundle_copy.path, bundle_copy.manifest))
    assert "\n" not in str(caught.value)
    assert "src/" not in str(caught.value)


def test_bundle_that_changes_while_it_is_read_is_refused(bundle_copy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    read = openvino.Core.read_model

    def read_and_change(core: openvino.Core, path: Path) -> Any:
        assert bundle_copy.held is not None
        assert bundle_copy.held.root in Path(path).parents, "the graph is opened in the folder that was checked"
        model = read(core, path)
        os.utime(bundle_copy.path / contract.WEIGHTS_FILE, (1, 1))
        return model

    monkeypatch.setattr(openvino.Core, "read_model", read_and_change)
    with pytest.raises(IntegrityError, match="was changed while it was read"):
        opened(bundle_copy)


@pytest.mark.parametrize(("scheme", "close"), [("fp16", 2e-5), ("int8", 2e-5), ("int4", 2e-5), ("int8-dynamic", 0.1)])
def test_with_float_activations_every_scheme_has_the_logits_of_the_cpu_runtime(
    trained_bundle: Bundle, tmp_path: Path, scheme: str, close: float
) -> None:
    """Those of int8-dynamic are rounded in the graph, where the last bit may decide."""
    bundle = quantized_bundle(trained_bundle, tmp_path / "quantized", scheme)
    expected = logits_of(OrtCpuRuntime(bundle, rounds_activations=False))
    difference = np.abs(logits_of(OpenVINORuntime(bundle, rounds_activations=False)) - expected)
    assert difference.max() <= close, f"max {difference.max():.2g}, mean {difference.mean():.2g}"


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_rounding_activations_costs_no_more_than_in_the_cpu_runtime(
    trained_bundle: Bundle, tmp_path: Path, scheme: str
) -> None:
    """Where the processor's kernels do not round, as without VNNI, it costs nothing."""
    bundle = quantized_bundle(trained_bundle, tmp_path / "quantized", scheme)
    unrounded = logits_of(OrtCpuRuntime(bundle, rounds_activations=False))
    in_cpu, here = (np.abs(logits_of(runtime(bundle)) - unrounded).mean() for runtime in (OrtCpuRuntime, opened))
    assert here <= 1.5 * in_cpu, f"{here:.2g} against {in_cpu:.2g}"


def test_int8_cache_is_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    options = QuantizeOptions(scheme="int8", kv_cache="int8")
    bundle, _ = quantize_bundle(tiny_bundle, tmp_path / "kv", options, calibration_documents=[IDS[0]])
    with pytest.raises(BundleError, match="keeps keys and values in int8, runtime openvino in float32") as caught:
        opened(bundle)
    assert caught.value.hint == "codegen-edge quantize FP32-BUNDLE OUT --scheme int8"


def test_failed_step_leaves_the_cache_as_it_was(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first row has its token already when the second one fails."""
    runtime = opened(tiny_bundle)
    cache = runtime.new_cache(2, 8)
    runtime.step(IDS[:, :4].reshape(2, 2), cache)
    before = [cache.read_row(row) for row in range(2)]
    broken = cache.requests[1]
    cache.requests[1] = SimpleNamespace(set_tensor=_fail, query_state=broken.query_state)
    with pytest.raises(RuntimeError, match="broken"):
        runtime.step(IDS[:, 4:6].reshape(2, 1), cache)
    cache.requests[1] = broken
    assert cache.lengths.tolist() == [2, 2]
    for row, tensors in enumerate(before):
        for name, tensor in cache.read_row(row).items():
            assert np.array_equal(tensor, tensors[name])


def test_fork_is_refused(tiny_bundle: Bundle) -> None:
    runtime = opened(tiny_bundle)
    cache = runtime.new_cache(1, 8)
    ended = in_child(lambda: str(runtime.step(IDS[:, :4], cache)), seconds=60)
    assert (ended.outcome, "of which this one is a fork" in ended.words) == ("error", True), ended


def test_drafts_and_batches_change_no_token(tiny_bundle: Bundle) -> None:
    prompts = ["def hello_world():", "import os\n" * 9, "x"]
    with load_model(tiny_bundle.path, runtime="openvino") as model, load_model(tiny_bundle.path) as plain:
        expected = [completion.token_ids for completion in plain.generate(prompts, max_new_tokens=24)]
        assert [completion.token_ids for completion in model.generate(prompts, max_new_tokens=24)] == expected
        drafted = model.generate(prompts[1], max_new_tokens=24, draft="prompt-lookup")
        assert drafted.token_ids == expected[1]


def test_verify_stores_the_verdict(bundle_copy: Bundle, tiny_checkpoint: Path) -> None:
    arguments = ["verify", str(bundle_copy.path), "--reference", str(tiny_checkpoint), "--runtime", "openvino"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    parity = open_bundle(bundle_copy.path).manifest.parity
    assert parity is not None
    assert (parity["runtime"], parity["verdict"]) == ("openvino", "equal")


def test_doctor_lists_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    from codegen_edge.workflows import diagnosis

    found = diagnosis._openvino()
    assert (found.part, found.is_ok, found.can_generate) == ("runtime openvino", True, True)
    assert f"openvino {openvino.get_version()}; CPU: " in found.found
    monkeypatch.setitem(sys.modules, "openvino", None)
    missing = diagnosis._openvino()
    assert (missing.is_ok, "pip install" in missing.remedy) == (False, True)


def test_closed_runtime_makes_no_cache(tiny_bundle: Bundle) -> None:
    runtime = opened(tiny_bundle)
    runtime.close()
    with pytest.raises(BackendError, match="closed"):
        runtime.new_cache(1, 4)


def _fail(*_: object) -> None:
    raise RuntimeError("broken")


def _range_of_openvino() -> tuple[Any, ...]:
    from packaging.requirements import Requirement

    return (Requirement("openvino>=2025.0"),)


def _ranges() -> dict[str, Any]:
    return {"openvino": _range_of_openvino()[0].specifier}
