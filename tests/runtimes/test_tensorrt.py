"""The `tensorrt` runtime over a stand-in of its library: binding, versions, what an engine is checked for."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codegen_edge.bundle import Bundle, contract, open_bundle
from codegen_edge.bundle.model_config import ModelConfig
from codegen_edge.errors import (
    BackendError,
    BundleError,
    IntegrityError,
    InvalidInputError,
    RuntimeUnavailableError,
)
from codegen_edge.generation.model import Model
from codegen_edge.runtimes import open_runtime
from codegen_edge.runtimes.backends.tensorrt import TensorRTRuntime, require_gpu
from codegen_edge.runtimes.builders import EngineOptions, build_engines, is_current
from codegen_edge.runtimes.tensorrt_library import TensorRT, load_tensorrt
from codegen_edge.tokenizer import Tokenizer

from .stand_ins import FakeBuilder, FakeRuntime, StreamingHost, edit_manifest, fake_library


@pytest.fixture
def engines(engine_bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the engines to alter."""
    return Path(shutil.copytree(engine_bundle.path, tmp_path / "engines"))


def opened(folder: Path, library: TensorRT | None = None) -> TensorRTRuntime:
    return TensorRTRuntime(open_bundle(folder, check="size"), library or fake_library(), StreamingHost())


def test_text_is_that_of_the_cpu_runtime_in_batches_sessions_and_with_drafts(
    engine_bundle: Bundle, tiny_bundle: Bundle
) -> None:
    prompts = ["def hello_world():", "import os\n" * 9, "x"]
    plain = Model(tiny_bundle, open_runtime("cpu", tiny_bundle), Tokenizer(tiny_bundle.tokenizer_path))
    runtime = TensorRTRuntime(engine_bundle, fake_library(), StreamingHost())
    model = Model(engine_bundle, runtime, Tokenizer(engine_bundle.tokenizer_path))
    for options in ({}, {"temperature": 0.8, "seed": 3}, {"draft": "prompt-lookup"}):
        expected = [completion.token_ids for completion in plain.generate(prompts, max_new_tokens=20, **options)]
        assert [
            completion.token_ids for completion in model.generate(prompts, max_new_tokens=20, **options)
        ] == expected
    session = model.session()
    session.append("def f(x):")
    assert session.generate(max_new_tokens=5).text == plain.generate("def f(x):", max_new_tokens=5).text


def test_decode_is_bound_once_for_a_cache(engine_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = TensorRTRuntime(engine_bundle, fake_library(), StreamingHost())
    cache = runtime.new_cache(1, 16)
    runtime.step(np.array([[5]]), cache)
    assert runtime._phases is not None
    context = runtime._phases["decode"]._context
    bound: list[str] = []

    def bind(name: str, address: int) -> bool:
        bound.append(name)
        return True

    monkeypatch.setattr(context, "set_tensor_address", bind)
    runtime.step(np.array([[6]]), cache)
    assert not bound
    runtime.step(np.array([[6]]), runtime.new_cache(1, 16))
    assert len(bound) == 2 * len(cache.buffers)


def test_library_that_tells_no_aliases_will_do(engine_bundle: Bundle) -> None:
    runtime = TensorRTRuntime(engine_bundle, fake_library(tells_aliases=False), StreamingHost())
    assert runtime.step(np.array([[5]]), runtime.new_cache(1, 4)).shape == (1, 640)


def test_aliases_that_cross_are_refused(engine_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from .stand_ins import TellingEngine

    crossed = {contract.present_name(0, "key"): contract.past_name(0, "value")}
    plain = TellingEngine.get_aliased_input_tensor
    monkeypatch.setattr(
        TellingEngine, "get_aliased_input_tensor", lambda self, name: crossed.get(name) or plain(self, name)
    )
    with pytest.raises(BundleError, match=r"writes present\.0\.key over past_key_values\.0\.value"):
        TensorRTRuntime(engine_bundle, fake_library(), StreamingHost())
    monkeypatch.setattr(TellingEngine, "get_aliased_input_tensor", lambda self, name: None)
    with pytest.raises(BundleError, match=r"writes present\.0\.key over no input"):
        TensorRTRuntime(engine_bundle, fake_library(), StreamingHost())


@pytest.mark.parametrize("content", [b"", b"not an engine", None])
def test_altered_engine_is_never_loaded(engines: Path, content: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    path = engines / "engines/prefill.engine"
    size = path.stat().st_size
    altered = path.read_bytes()[:-1] + b"\0" if content is None else content.ljust(size, b"\0")
    path.write_bytes(altered)
    loaded: list[bytes] = []
    monkeypatch.setattr(FakeRuntime, "deserialize_cuda_engine", lambda self, content: loaded.append(content))
    with pytest.raises(IntegrityError, match=r"engine was altered: it is not loaded"):
        opened(engines)  # checked by size only: the engine's own check stands
    assert not loaded
    with pytest.raises(IntegrityError, match="altered"):
        open_bundle(engines)


def test_missing_engine_is_named(engines: Path) -> None:
    (engines / "engines/prefill.engine").unlink()
    with pytest.raises(IntegrityError, match=r"prefill\.engine is missing"):
        open_bundle(engines)


def test_engine_that_the_library_refuses_is_an_error_with_its_words(
    engine_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.runtimes.stand_ins.MAGIC", b"another version")
    with pytest.raises(BackendError, match="refuses the prefill engine .*magicTag"):
        TensorRTRuntime(engine_bundle, fake_library(), StreamingHost())


@pytest.mark.parametrize(
    "change", [{"version": "10.15.0"}, {"library": "tensorrt-rtx"}], ids=lambda change: next(iter(change))
)
def test_engines_of_another_version_name_the_build_command(engines: Path, change: dict[str, str]) -> None:
    edit_manifest(engines, **change)
    with pytest.raises(RuntimeUnavailableError, match="were built by .*; build them again"):
        opened(engines)


@pytest.mark.parametrize(
    ("engines_for", "gpu", "name", "capability", "fits"),
    [
        (("8.9",), None, "NVIDIA L4", "8.9", True),
        (("8.6", "8.9"), None, "NVIDIA A10", "8.6", True),
        (("8.9",), None, "NVIDIA H100", "9.0", False),
        (("current",), "NVIDIA L4", "NVIDIA L4", "8.9", True),
        (("current",), "NVIDIA L4", "NVIDIA L40S", "8.9", False),
    ],
)
def test_engines_are_for_the_gpu_that_they_were_built_for(
    engines: Path, engines_for: tuple[str, ...], gpu: str | None, name: str, capability: str, fits: bool
) -> None:
    edit_manifest(engines, compute_capabilities=engines_for, gpu=gpu)
    bundle = open_bundle(engines, check="size")
    assert bundle.manifest.engines is not None
    if fits:
        require_gpu(bundle, bundle.manifest.engines, name, capability)
    else:
        with pytest.raises(RuntimeUnavailableError, match=f"this GPU is {name} .*; build them again"):
            require_gpu(bundle, bundle.manifest.engines, name, capability)


@pytest.mark.parametrize(("rows", "capacity"), [(9, 16), (1, 100), (9, 100)])
def test_more_than_was_built_names_the_build_command(
    static_bundle: Bundle, tmp_path: Path, rows: int, capacity: int
) -> None:
    options = EngineOptions(compute="fp32", chunk=4, batch_size=8, capacity=64)
    bundle = build_engines(static_bundle, tmp_path / "out", FakeBuilder(fake_library()), options)
    runtime = TensorRTRuntime(bundle, fake_library(), StreamingHost())
    assert runtime.config.context_length == 64
    with pytest.raises(InvalidInputError, match=f"{rows} rows of {capacity} tokens were asked for") as refused:
        runtime.new_cache(rows, capacity)
    assert refused.value.hint.endswith(f"--batch {max(rows, 8)} --capacity {max(capacity, 64)}")
    cache = runtime.new_cache(8, 8)
    with pytest.raises(InvalidInputError, match="built for 8 rows, 9 are needed") as refused:
        cache.select([0] * 9)
    assert refused.value.hint.endswith("--batch 9")


def test_shape_of_another_build_is_refused(engines: Path) -> None:
    edit_manifest(engines, chunk=8)
    with pytest.raises(BundleError, match=r"takes ids \(8, 4\), not \(8, 8\)"):
        opened(engines)
    edit_manifest(engines, chunk=4, capacity=100)
    with pytest.raises(BundleError, match="build it again"):
        opened(engines)


def test_failing_step_is_an_error_with_the_librarys_words(
    engine_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = fake_library()
    runtime = TensorRTRuntime(engine_bundle, library, StreamingHost())
    cache = runtime.new_cache(1, 4)
    assert runtime._phases is not None

    def fail(stream: int) -> bool:
        library.logger.errors.append("Cuda Runtime (out of memory)")
        return False

    monkeypatch.setattr(runtime._phases["decode"]._context, "execute_async_v3", fail)
    with pytest.raises(BackendError, match="decode engine .* failed: Cuda Runtime \\(out of memory\\)"):
        runtime.step(np.array([[5]]), cache)
    assert cache.lengths.tolist() == [0]


def test_bundle_without_engines_names_the_steps_to_them(tiny_bundle: Bundle, static_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="holds no engines") as refused:
        open_runtime("tensorrt", static_bundle)
    assert refused.value.hint == f"codegen-edge build {static_bundle.path} OUT --runtime tensorrt"
    with pytest.raises(BundleError, match="holds no engines") as refused:
        open_runtime("tensorrt", tiny_bundle)
    assert "--target tensorrt, then codegen-edge build" in refused.value.hint


@pytest.mark.parametrize("runtime", ["cpu", "static-cpu", "cuda"])
def test_engines_are_for_no_other_runtime(engine_bundle: Bundle, runtime: str) -> None:
    with pytest.raises(BundleError, match="holds engines, which runtime tensorrt runs"):
        open_runtime(runtime, engine_bundle)


def test_engines_are_current_until_bundle_library_or_options_change(
    engine_bundle: Bundle, static_bundle: Bundle, engines: Path
) -> None:
    options = EngineOptions(compute="fp32", chunk=4, batch_size=8)
    builder = FakeBuilder(fake_library())
    assert is_current(engine_bundle.path, static_bundle, builder, options)
    assert not is_current(engine_bundle.path, engine_bundle, builder, options)
    assert not is_current(engine_bundle.path, static_bundle, FakeBuilder(fake_library(), gpu="NVIDIA L4"), options)
    for other in ({"chunk": 5}, {"batch_size": 7}, {"capacity": 64}, {"compute": "fp16"}):
        fields: dict[str, Any] = {"compute": "fp32", "chunk": 4, "batch_size": 8, **other}
        assert not is_current(engine_bundle.path, static_bundle, builder, EngineOptions(**fields))
    edit_manifest(engines, version="1.0")
    assert not is_current(engines, static_bundle, builder, options)
    assert not is_current(engines / "nowhere", static_bundle, builder, options)


def test_engines_have_a_fingerprint_and_a_model(engine_bundle: Bundle, static_bundle: Bundle) -> None:
    assert engine_bundle.fingerprint != static_bundle.fingerprint
    assert engine_bundle.manifest.built_of == static_bundle.fingerprint
    assert isinstance(engine_bundle.manifest.model, ModelConfig)
    assert not (engine_bundle.path / "onnx").exists()


def test_missing_library_names_both_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RuntimeUnavailableError, match=r"\[tensorrt\].* or .*\[tensorrt-rtx\]"):
        load_tensorrt()
    with pytest.raises(RuntimeUnavailableError, match=r"^tensorrt-rtx is not installed"):
        load_tensorrt("tensorrt-rtx")


def test_library_that_cannot_be_loaded_gives_way_to_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_loader("tensorrt", None, origin="tensorrt.py")
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec if name == "tensorrt" else find(name))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert load_tensorrt().name == "tensorrt-rtx"
    with pytest.raises(RuntimeUnavailableError, match="tensorrt is installed and cannot be loaded"):
        load_tensorrt("tensorrt")


def test_gpu_that_the_library_has_no_kernels_for_is_refused() -> None:
    """TensorRT-RTX builds an engine on an H100 and refuses to load it there; what it lists is what it runs on."""
    rtx = load_tensorrt("tensorrt-rtx")
    for capability in ("8.9", "12.0", "13.0"):
        rtx.require_support("a GPU", capability)
    with pytest.raises(RuntimeUnavailableError, match=r"NVIDIA H100 has 9\.0: pip install .*\[tensorrt\]"):
        rtx.require_support("NVIDIA H100", "9.0")
    fake_library().require_support("NVIDIA H100", "9.0")  # TensorRT builds for the GPU at hand
