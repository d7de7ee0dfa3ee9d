"""What `make test-gpu` proves beside the conformance suite, skipped where no GPU is; and its benchmark, on the host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import gpu as benchmark
from codegen_edge.bundle import Bundle
from codegen_edge.errors import CodegenEdgeError
from codegen_edge.evaluation.parity.tolerances import TOLERANCES
from codegen_edge.evaluation.parity.verify import verify_built
from codegen_edge.exporter import ExportOptions, export_checkpoint, locate_checkpoint
from codegen_edge.exporter.random_checkpoint import ModelShape, write_random_checkpoint
from codegen_edge.generation.model import load_model
from codegen_edge.quantization import QuantizeOptions, quantize_bundle
from codegen_edge.runtimes import open_runtime
from codegen_edge.runtimes.backends.tensorrt import TensorRTRuntime
from codegen_edge.runtimes.builders import EngineOptions, build_engines, build_half
from codegen_edge.runtimes.builders.engine_builder import EngineBuilder
from codegen_edge.runtimes.tensorrt_library import load_tensorrt

from .gpu import missing, skip_or_fail
from .stand_ins import FakeBuilder, StreamingHost, fake_library
from .test_build import on_the_cpu


def require(runtime: str) -> None:
    reason = missing(runtime)
    if reason is not None:
        skip_or_fail(f"{runtime}: {reason}")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Bundle]:
    """The trained checkpoint by runtime and precision, as a CPU runs it; made when a test asks."""
    return {}


def source(runtime: str, precision: str, made: dict[tuple[str, str], Bundle], folder: Path) -> Bundle:
    if (runtime, precision) not in made:
        options = ExportOptions(target="ort" if runtime == "cuda" else "tensorrt")
        bundle = export_checkpoint(locate_checkpoint("codegen-5M-mono"), folder / f"{runtime}-fp32", options)
        if precision != "fp16":
            quantize = QuantizeOptions(scheme=precision, method="search")
            bundle, _ = quantize_bundle(bundle, folder / f"{runtime}-{precision}", quantize)
        made[runtime, precision] = bundle
    return made[runtime, precision]


def build(runtime: str, bundle: Bundle, out: Path) -> Bundle:
    if runtime == "cuda":
        return build_half(bundle, out)
    return build_engines(bundle, out, EngineBuilder(load_tensorrt()), EngineOptions(chunk=32, batch_size=8))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
@pytest.mark.parametrize("runtime", ["cuda", "tensorrt"])
def test_built_bundle_is_equal_to_what_it_was_built_of(
    runtime: str, precision: str, sources: dict[tuple[str, str], Bundle], tmp_path: Path
) -> None:
    require(runtime)
    bundle = source(runtime, precision, sources, tmp_path)
    report = verify_built(build(runtime, bundle, tmp_path / "built"), bundle)
    assert report.is_equal, report.first_failure


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"cuda_graph": True}], ids=["plain", "recorded"])
def test_cuda_writes_what_the_cpu_writes(options: dict[str, Any], trained_bundle: Bundle, tmp_path: Path) -> None:
    require("cuda")
    prompts = ["def hello_world():", "import os\n", "class Stack:\n    def push(self"]
    half = build_half(trained_bundle, tmp_path / "half")
    with load_model(half.path, runtime="cuda", **options) as gpu, load_model(trained_bundle.path) as cpu:
        found, expected = (model.generate(prompts, max_new_tokens=48) for model in (gpu, cpu))
        for prompt, row, truth in zip(prompts, found, expected, strict=True):
            differing = [place for place in range(48) if row.token_ids[place] != truth.token_ids[place]]
            if not differing:
                continue
            # Half precision may tip a near tie, and the text goes on from there. Anything else is a fault.
            ids = [*cpu.tokenizer.encode(prompt), *truth.token_ids[: differing[0]]]
            (logits,) = cpu.runtime.step(np.array([ids]), cpu.runtime.new_cache(1, len(ids)))
            gap = logits.max() - logits[row.token_ids[differing[0]]]
            assert gap <= 2 * TOLERANCES["computed in fp16"].limit(logits), f"{prompt!r}, token {differing[0]}"


@pytest.mark.gpu
def test_memory_limit_is_kept(trained_bundle: Bundle, tmp_path: Path) -> None:
    require("cuda")
    half = build_half(trained_bundle, tmp_path / "half")
    open_runtime("cuda", half, memory_limit_mib=4096).close()
    with pytest.raises(CodegenEdgeError, match="(?i)memory|alloc"):
        open_runtime("cuda", half, memory_limit_mib=1).step(np.array([[5]]), None)  # type: ignore[arg-type]


def test_benchmark_measures_both_runtimes_and_goes_on_behind_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole of it but the GPU: a small shape, stand-ins for the runtimes, one of which refuses a batch."""
    shape = ModelShape(n_layer=1, n_embd=64, n_head=4, rotary_dim=16, vocab_size=1024, n_positions=128)
    for name, value in {"PROMPT_TOKENS": 20, "NEW_TOKENS": 3, "CAPACITY": 32, "CHUNK": 8, "ROUNDS": 1}.items():
        monkeypatch.setattr(benchmark, name, value)
    monkeypatch.setattr(benchmark, "EngineBuilder", lambda library: FakeBuilder(fake_library()))

    def opened(name: str, bundle: Bundle, **options: Any) -> Any:
        if options:
            raise CodegenEdgeError("no graphs here")
        if name == "cuda":
            return on_the_cpu(bundle)
        return TensorRTRuntime(bundle, fake_library(), StreamingHost())

    monkeypatch.setattr(benchmark, "open_runtime", opened)
    run = benchmark.Run(tmp_path / "gpu-test.json", tmp_path, bandwidth=1e9, result={"rows": []})
    write_random_checkpoint(tmp_path / "small", shape)
    for runtime in ("cuda", "tensorrt"):
        benchmark.rows_of(run, "small", runtime, "fp16", (1, 2))
    rows = json.loads(run.path.read_text())["rows"]
    assert [row["runtime"] for row in rows] == ["cuda", "cuda with CUDA graphs"] * 2 + ["tensorrt"] * 2
    assert [row["runtime"] for row in rows if "error" in row] == ["cuda with CUDA graphs"] * 2, rows
    assert all(row["decode_ms"] > 0 and row["roofline_share"] > 0 for row in rows if "error" not in row)


def test_failure_of_any_kind_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise TypeError("pybind11: nullptr")

    monkeypatch.setattr(benchmark, "export", fail)
    run = benchmark.Run(tmp_path / "gpu-test.json", tmp_path, bandwidth=1e9, result={"rows": []})
    benchmark.rows_of(run, "small", "tensorrt", "fp16", (1,))
    benchmark.torch_rows(run, "nowhere", (1,))
    errors = [row["error"] for row in run.result["rows"]]
    assert errors[0] == "TypeError: pybind11: nullptr"
    assert len(errors) == 2


def test_benchmark_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if missing("cuda") is None:
        pytest.skip("there is a GPU here")
    with pytest.raises(SystemExit) as ended:
        benchmark.require_gpu()
    assert ended.value.code == 2
    assert "nothing to measure: " in capsys.readouterr().err
    assert not list(benchmark.usable_runtimes(("cuda", "tensorrt")))
    assert "left out: cuda" in capsys.readouterr().err
