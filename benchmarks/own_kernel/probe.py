"""Decode and open bundles with and without matmul_nbits.c: python -m benchmarks.own_kernel.probe --include DIR.

DIR holds onnxruntime_c_api.h, which the releases of ONNX Runtime on GitHub have and its Python package does not. A C
compiler and a processor with AVX-512 VNNI are needed as well. The 350M shape; kernels do not know that it is random.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx_ir as ir

from benchmarks.harness import Rounds, comparison, interleave
from benchmarks.machine import describe_machine
from benchmarks.random_checkpoint import TEXTS
from codegen_edge.bundle import Bundle, open_bundle
from codegen_edge.bundle.graph_file import read_model, session_source
from codegen_edge.exporter import export_checkpoint, locate_checkpoint
from codegen_edge.exporter.random_checkpoint import SHAPES, write_random_checkpoint
from codegen_edge.ort_session import PROVIDER, THREADING, default_threads, load_onnxruntime
from codegen_edge.quantization import QuantizeOptions, quantize_bundle
from codegen_edge.runtimes import Runtime
from codegen_edge.runtimes.backends.ort import OrtRuntime
from codegen_edge.runtimes.backends.ort_cpu import OrtCpuRuntime

RESULT = Path(__file__).parents[1] / "results" / "own_kernel.json"
SOURCE = Path(__file__).with_name("matmul_nbits.c")
COMPILED = ("-O3", "-march=native", "-mavx512vnni", "-Wall", "-Wextra", "-Wno-unused-parameter", "-shared", "-fPIC")
DOMAIN = "codegen_edge"
ATTRIBUTES = ("K", "N", "bits", "block_size")
BIAS = 5  # of MatMulNBits' inputs, after zero points and group indices, which our bundles leave out
ROUNDS, STEPS, PAST = 7, 16, 128
FIGURES = ("decode_ms", "eight_rows_ms", "eight_tokens_ms", "prefill_ms")
# The values of the codes are no matter.
SCHEMES = {"int8": QuantizeOptions(scheme="int8"), "int4": QuantizeOptions(scheme="int4", method="round")}
MOST_ERROR = 1.2  # of ONNX Runtime's: what rounded activations change in logits, against float ones


def compile_kernel(include: Path, folder: Path) -> Path:
    """The library.

    Raises:
        click.ClickException: this processor lacks the instructions, or there is no compiler.
    """
    if not describe_machine()["features"]["avx512_vnni"]:
        raise click.ClickException("the probe needs a processor with AVX-512 VNNI")
    if shutil.which("cc") is None:
        raise click.ClickException("the probe needs a C compiler, cc")
    library = folder / "kernel.so"
    subprocess.run(["cc", *COMPILED, f"-I{include}", "-o", str(library), str(SOURCE)], check=True)
    return library


def opened(bundle: Bundle, library: Path | None) -> Runtime:
    """The bundle's runtime, with ONNX Runtime's products or with those of the library."""
    model = read_model(bundle)
    options = load_onnxruntime().SessionOptions()
    options.log_severity_level = 3
    if library is not None:
        options.register_custom_ops_library(str(library))
        model.opset_imports[DOMAIN] = 1
        for node in model.graph:
            if node.op_type == "MatMulNBits":
                _replace(node)
    graph, folder = session_source(bundle, model)
    options.intra_op_num_threads, options.inter_op_num_threads = default_threads(), 1
    for name, value in THREADING.items():
        options.add_session_config_entry(name, value)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    session = load_onnxruntime().InferenceSession(graph, options, providers=[PROVIDER])
    return OrtRuntime("cpu", bundle, session, cache_dtype=np.float32)


def _replace(node: ir.Node) -> None:
    bias = node.inputs[BIAS] if len(node.inputs) > BIAS else None
    node.domain = DOMAIN
    node.resize_inputs(4)
    node.replace_input_with(3, bias)
    for name in set(node.attributes) - set(ATTRIBUTES):
        del node.attributes[name]


def logits_of(runtime: Runtime) -> np.ndarray[Any, np.dtype[np.float32]]:
    """After a prompt, and after tokens one by one: [B, V]."""
    ids = np.random.default_rng(0).integers(0, 1000, (1, 24))
    cache = runtime.new_cache(1, 24)
    found = [runtime.step(ids[:, :16], cache)]
    return np.concatenate([*found, *(runtime.step(ids[:, at : at + 1], cache) for at in range(16, 24))])


def time_steps(runtime: Runtime) -> dict[str, float]:
    """Milliseconds of a decode step behind a prompt, of eight rows, of eight tokens of one row, and of the prompt."""
    ids = np.random.default_rng(0).integers(0, 1000, (8, PAST))

    def measured(rows: int, tokens: int, past: int, times: int) -> float:
        cache = runtime.new_cache(rows, past + times * tokens)
        if past:
            runtime.step(ids[:rows, :past], cache)
        started = time.perf_counter()
        for _ in range(times):
            runtime.step(ids[:rows, :tokens], cache)
        return 1000 * (time.perf_counter() - started) / times

    return {
        "decode_ms": measured(1, 1, PAST, STEPS),
        "eight_rows_ms": measured(8, 1, PAST, STEPS),
        "eight_tokens_ms": measured(1, 8, PAST, STEPS),
        "prefill_ms": measured(1, PAST, 0, 1),
    }


def open_once(bundle: Path, library: Path | None) -> dict[str, float]:
    """Seconds to open a bundle, and what the process's memory grows by; of a fresh process with ONNX Runtime loaded."""
    found = open_bundle(bundle)
    load_onnxruntime()
    before, started = _resident_bytes(), time.perf_counter()
    runtime = opened(found, library)
    seconds = time.perf_counter() - started
    grown = _resident_bytes() - before
    runtime.close()
    return {"open_s": seconds, "grown_bytes": grown}


def _resident_bytes() -> int:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) * 1024


def in_fresh_process(work: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What it measures."""
    with ProcessPoolExecutor(1, get_context("spawn")) as processes:
        return processes.submit(work).result()


def measure(bundle: Bundle, library: Path) -> dict[str, Any]:
    """Both kernels' figures by name, with the ratio of each round's; ONNX Runtime's come first."""
    libraries = {"onnxruntime": None, "own": library}
    runtimes = {name: opened(bundle, each) for name, each in libraries.items()}
    exact = OrtCpuRuntime(bundle, rounds_activations=False)
    expected = logits_of(exact)
    exact.close()
    errors = {name: float(np.sqrt(np.square(logits_of(each) - expected).mean())) for name, each in runtimes.items()}
    assert errors["own"] < MOST_ERROR * errors["onnxruntime"], errors
    steps = interleave({name: partial(time_steps, runtime) for name, runtime in runtimes.items()}, rounds=ROUNDS)
    for runtime in runtimes.values():
        runtime.close()
    opening = interleave(
        {name: partial(in_fresh_process, partial(open_once, bundle.path, each)) for name, each in libraries.items()},
        rounds=ROUNDS,
    )
    figures = {figure: _compared(steps, figure) for figure in FIGURES}
    figures |= {figure: _compared(opening, figure) for figure in ("open_s", "grown_bytes")}
    return {"logit_errors": errors, "figures": figures}


def _compared(rounds: Rounds, figure: str) -> dict[str, Any]:
    sides = {name: rounds.spread(name, figure).to_dict() for name in ("onnxruntime", "own")}
    return {**sides, **comparison(rounds, "own", figure)}


@click.command()
@click.option("--include", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
def main(include: Path) -> None:
    """Measure and write benchmarks/results/own_kernel.json."""
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        library = compile_kernel(include.resolve(), folder)
        write_random_checkpoint(folder / "checkpoint", SHAPES["350M"], texts=TEXTS)
        fp32 = export_checkpoint(locate_checkpoint(str(folder / "checkpoint")), folder / "fp32")
        for scheme, options in SCHEMES.items():
            bundle, _ = quantize_bundle(fp32, folder / scheme, options)
            found[scheme] = measure(bundle, library)
            for figure, row in found[scheme]["figures"].items():
                click.echo(f"{scheme} {figure}: {row['onnxruntime']} {row['own']} {row['speedup']} {row['noise']}")
    RESULT.write_text(json.dumps({"machine": describe_machine(), "rounds": ROUNDS, "schemes": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
