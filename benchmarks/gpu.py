"""Prefill and decode on an NVIDIA GPU: python -m benchmarks.gpu.

Our runtimes cuda and tensorrt, in fp16, int8 and int4, beside transformers' own model in torch, eager and compiled; all
in float16, on checkpoints of random weights. Beside every time stands what the memory alone would take: the bytes that
a step must read, over the bandwidth that a copy reaches in the same run.

What cannot be had on the machine is reported and left out; a failure is written down in its row, and the others go on.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx_ir as ir
import torch

from benchmarks.machine import describe_machine
from benchmarks.random_checkpoint import TEXTS
from codegen_edge.bundle import Bundle
from codegen_edge.errors import CodegenEdgeError
from codegen_edge.exporter import ExportOptions, export_checkpoint, layout, locate_checkpoint
from codegen_edge.exporter.random_checkpoint import SHAPES, write_random_checkpoint
from codegen_edge.runtimes import Runtime, open_runtime
from codegen_edge.runtimes.builders import EngineOptions, build_engines, build_half
from codegen_edge.runtimes.builders.engine_builder import EngineBuilder
from codegen_edge.runtimes.devices.cuda import CudaDevice, Gpu, list_gpus
from codegen_edge.runtimes.tensorrt_library import load_tensorrt
from codegen_edge.workflows.diagnosis import diagnose
from codegen_edge.workflows.export_quantized import export_quantized

RESULTS = Path(__file__).parent / "results"
PROMPT_TOKENS, NEW_TOKENS, CAPACITY, CHUNK = 512, 64, 640, 128
ROUNDS = 5
TARGETS: dict[str, Any] = {"cuda": "ort", "tensorrt": "tensorrt"}
TORCH = ("torch eager", "torch compile")


@dataclass
class Run:
    """What is measured into which file; the file is written after every row.

    Attributes:
        path: of the result.
        folder: for checkpoints and bundles.
        bandwidth: bytes per second that a copy on the device reads and writes.
        result: for JSON.
    """

    path: Path
    folder: Path
    bandwidth: float
    result: dict[str, Any] = field(default_factory=dict)

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row, and say it."""
        self.result["rows"].append(row)
        self.path.write_text(json.dumps(self.result, indent=2) + "\n")
        click.echo(", ".join(f"{name} {value}" for name, value in row.items()))

    def roofline_ms(self, weight_bytes: int, kv_bytes: int) -> float:
        """Least milliseconds of a step that reads the weights and all rows' keys and values once."""
        return 1000 * (weight_bytes + kv_bytes) / self.bandwidth


def measure_bandwidth(device: CudaDevice) -> float:
    """Bytes per second of a copy of 1 GiB on the device; it reads and writes each."""
    num_bytes = 1 << 30
    source = device.zeros((1, 1, num_bytes // 1024, 1024), np.int8)
    target = device.zeros(source.shape, np.int8)
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        target.put(0, 0, source)  # queued
        device.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * num_bytes / min(seconds)


def median_ms(repeats: int, work: Callable[[], object]) -> float:
    """Median of `repeats` after one that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def time_runtime(runtime: Runtime, batch_size: int) -> tuple[float, float]:
    """Milliseconds of a prefill and of a decode step."""
    ids = np.random.default_rng(0).integers(0, 1000, (batch_size, PROMPT_TOKENS))
    prefill = median_ms(ROUNDS, lambda: runtime.step(ids, runtime.new_cache(batch_size, CAPACITY)))
    cache = runtime.new_cache(batch_size, CAPACITY)
    runtime.step(ids, cache)
    return prefill, median_ms(NEW_TOKENS, lambda: runtime.step(ids[:, :1], cache))


def time_torch(model: Any, batch_size: int) -> tuple[float, float]:
    """The same of transformers' model; torch is waited for after every step, as a loop that chooses tokens must."""
    from transformers import DynamicCache

    ids = torch.randint(0, 1000, (batch_size, PROMPT_TOKENS), device="cuda")

    def prefill() -> Any:
        cache = DynamicCache()
        model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        torch.cuda.synchronize()
        return cache

    with torch.inference_mode():
        prefill_ms = median_ms(ROUNDS, prefill)
        cache = prefill()

        def decode() -> None:
            model(ids[:, :1], past_key_values=cache, use_cache=True)
            torch.cuda.synchronize()

        return prefill_ms, median_ms(NEW_TOKENS, decode)


def export(run: Run, shape: str, runtime: str, precision: str) -> Bundle:
    """The bundle of a shape for a runtime, before it is built."""
    out = run.folder / f"{shape}-{TARGETS[runtime]}-{precision}"
    if out.exists():
        shutil.rmtree(out)
    located = locate_checkpoint(str(run.folder / shape))
    options = ExportOptions(target=TARGETS[runtime], precision=precision)
    if precision == "fp32":
        return export_checkpoint(located, out, options)
    return export_quantized(located, out, options, measure_tokens=0)[0]


def built(run: Run, bundle: Bundle, runtime: str, batch_size: int) -> Bundle:
    """What the runtime opens."""
    out = run.folder / f"built-{runtime}"
    if runtime == "cuda":
        return build_half(bundle, out, overwrite=True)
    options = EngineOptions(capacity=CAPACITY, chunk=CHUNK, batch_size=batch_size)
    return build_engines(bundle, out, EngineBuilder(load_tensorrt()), options, overwrite=True)


def failure(exc: Exception) -> dict[str, Any]:
    """A failure for its row: whatever a library raises on a machine that nobody has seen, the others go on."""
    return {"error": f"{type(exc).__name__}: {' '.join(str(exc).split())[:300]}"}


def rows_of(run: Run, shape: str, runtime: str, precision: str, batch_sizes: tuple[int, ...]) -> None:
    """Measure one of our runtimes; cuda also with its decode recorded."""
    head = {"shape": shape, "runtime": runtime, "precision": precision}
    try:
        bundle = export(run, shape, runtime, precision)
    except Exception as exc:
        run.add(head | failure(exc))
        return
    config = bundle.manifest.model
    weights = bytes_read_by_a_step(bundle)
    made: Bundle | None = None
    for batch_size in batch_sizes:
        kv_bytes = 2 * 2 * config.num_layers * config.hidden_size * batch_size * (PROMPT_TOKENS + NEW_TOKENS // 2)
        for options in ({}, {"cuda_graph": True}) if runtime == "cuda" else ({},):
            row = head | {"batch_size": str(batch_size)}
            if options:
                row["runtime"] = "cuda with CUDA graphs"
            try:
                if made is None or runtime == "tensorrt":
                    made = built(run, bundle, runtime, batch_size)
                opened = open_runtime(runtime, made, **options)
                try:
                    row |= figures(run, *time_runtime(opened, batch_size), batch_size, weights, kv_bytes)
                finally:
                    opened.close()
                    del opened
            except Exception as exc:
                row |= failure(exc)
            run.add(row)
    shutil.rmtree(bundle.path)


def bytes_read_by_a_step(bundle: Bundle) -> int:
    """Of all weights but the embedding table, of which a step reads a row for each token."""
    initializers = ir.load(bundle.model_path).graph.initializers.items()
    stored = {name: value.const_value for name, value in initializers if not name.startswith(layout.EMBEDDING)}
    return sum(tensor.nbytes for tensor in stored.values() if isinstance(tensor, ir.ExternalTensor))


def torch_rows(run: Run, shape: str, batch_sizes: tuple[int, ...]) -> None:
    """Measure transformers' model in float16, eager and compiled."""
    from transformers import CodeGenForCausalLM

    try:
        model = CodeGenForCausalLM.from_pretrained(run.folder / shape, dtype=torch.float16).to("cuda").eval()
    except Exception as exc:
        run.add({"shape": shape, "runtime": "torch", **failure(exc)})
        return
    table = model.get_input_embeddings().weight
    weights = sum(each.numel() * each.element_size() for each in model.parameters() if each is not table)
    config = model.config
    for kind, batch_size in itertools.product(TORCH, batch_sizes):
        kv_bytes = 2 * 2 * config.n_layer * config.n_embd * batch_size * (PROMPT_TOKENS + NEW_TOKENS // 2)
        row = {"shape": shape, "runtime": kind, "precision": "fp16", "batch_size": str(batch_size)}
        try:
            timed = torch.compile(model, dynamic=True) if kind == "torch compile" else model
            row |= figures(run, *time_torch(timed, batch_size), batch_size, weights, kv_bytes)
        except Exception as exc:
            row |= failure(exc)
        run.add(row)
        torch._dynamo.reset()
    del model
    torch.cuda.empty_cache()


def figures(
    run: Run, prefill_ms: float, decode_ms: float, batch_size: int, weight_bytes: int, kv_bytes: int
) -> dict[str, Any]:
    """For a row: times, tokens per second, and the share of what the memory would allow."""
    roofline_ms = run.roofline_ms(weight_bytes, kv_bytes)
    return {
        "prefill_ms": round(prefill_ms, 3),
        "decode_ms": round(decode_ms, 3),
        "decode_tokens_per_second": round(1000 * batch_size / decode_ms, 1),
        "roofline_ms": round(roofline_ms, 3),
        "roofline_share": round(roofline_ms / decode_ms, 3),
    }


def usable_runtimes(wanted: tuple[str, ...]) -> Iterator[str]:
    """Those of `wanted` that this machine has; the others are reported, with what repairs them."""
    findings = {finding.part: finding for finding in diagnose()}
    for name in wanted:
        finding = findings[f"runtime {name}"]
        if finding.is_ok:
            yield name
        else:
            click.echo(f"left out: {name}: {finding.found}: {finding.remedy}", err=True)


def require_gpu() -> Gpu:
    """The first GPU; without one the command ends and says what is missing."""
    try:
        return list_gpus()[0]
    except CodegenEdgeError as exc:
        click.echo(f"nothing to measure: {exc}", err=True)
        sys.exit(2)


@click.command()
@click.option("--shape", "shapes", multiple=True, type=click.Choice(["350M", "2B"]), default=("350M", "2B"))
@click.option("--runtime", "runtimes", multiple=True, type=click.Choice(list(TARGETS)), default=tuple(TARGETS))
@click.option("--precision", "precisions", multiple=True, default=("fp16", "int8", "int4"), show_default=True)
@click.option("--batch", "batch_sizes", multiple=True, type=int, default=(1, 8, 32), show_default=True)
@click.option("--torch/--no-torch", "has_torch", default=True, show_default=True, help="Measure transformers, too.")
@click.option("--name", help="Of the result file, gpu-NAME.json.  [default: the GPU's]")
def main(
    shapes: tuple[str, ...],
    runtimes: tuple[str, ...],
    precisions: tuple[str, ...],
    batch_sizes: tuple[int, ...],
    has_torch: bool,
    name: str | None,
) -> None:
    """Write benchmarks/results/gpu-NAME.json."""
    gpu = require_gpu()
    usable = list(usable_runtimes(runtimes))
    if has_torch and not torch.cuda.is_available():
        click.echo(f"left out: torch {torch.__version__} has no CUDA; install a build of torch that has", err=True)
        has_torch = False
    path = RESULTS / f"gpu-{name or re.sub(r'[^a-z0-9]+', '-', gpu.name.lower()).strip('-')}.json"
    with tempfile.TemporaryDirectory(dir=RESULTS.parent.parent, prefix=".demo-") as folder:
        try:
            run = Run(path, Path(folder), measure_bandwidth(CudaDevice()))
        except CodegenEdgeError as exc:
            click.echo(f"nothing to measure: {exc}", err=True)
            sys.exit(2)
        run.result = {
            "machine": describe_machine(),
            "gpu": {"name": gpu.name, "compute_capability": gpu.compute_capability, "memory_bytes": gpu.memory_bytes},
            "bandwidth_gb_s": round(run.bandwidth / 1e9, 1),
            "prompt_tokens": PROMPT_TOKENS,
            "new_tokens": NEW_TOKENS,
            "rows": [],
        }
        for shape in shapes:
            write_random_checkpoint(run.folder / shape, SHAPES[shape], texts=TEXTS, dtype=torch.float16)
            for runtime, precision in itertools.product(usable, precisions):
                rows_of(run, shape, runtime, precision, batch_sizes)
            if has_torch:
                torch_rows(run, shape, batch_sizes)
            shutil.rmtree(run.folder / shape)
    click.echo(f"wrote {path}")


if __name__ == "__main__":
    main()
