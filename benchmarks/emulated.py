"""Exact steps on processors that are not at hand, under qemu's user mode: python -m benchmarks.emulated.

ONNX Runtime chooses its kernels by the processor's features. qemu shows it another processor, slowly, so that the probe
of exact steps runs on the kernels for AVX2 without VNNI and on those for SSE. Times mean nothing here; bits do.
Needs `qemu-x86_64` (Debian: qemu-user) on an x86-64 Linux.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

import codegen_edge
from benchmarks.exactness import SCHEMES
from benchmarks.machine import describe_machine
from benchmarks.random_checkpoint import TEXTS
from codegen_edge.errors import RuntimeUnavailableError
from codegen_edge.exporter.random_checkpoint import ModelShape, write_random_checkpoint
from codegen_edge.quantization import QuantizeOptions, quantize_bundle
from codegen_edge.runtimes import open_runtime
from codegen_edge.runtimes.backends.ort_exact import step_noise

RESULT = Path(__file__).parent / "results" / "exactness_emulated.json"
PROCESSORS = {"max": "AVX2, no AVX-512, no VNNI", "Nehalem": "SSE4.2, no AVX"}  # qemu's names
TINY = ModelShape(n_layer=2, n_embd=64, n_head=4, rotary_dim=16, vocab_size=640, n_positions=128)
SHARP = 0.25
DOCUMENTS = [np.random.default_rng(0).integers(0, 300, 120) for _ in range(6)]


def make_bundles(folder: Path) -> list[Path]:
    """A small bundle of every scheme."""
    write_random_checkpoint(folder / "checkpoint", TINY, texts=TEXTS, initializer_range=SHARP)
    plain = codegen_edge.export(folder / "checkpoint", folder / "fp32", verify=False).bundle
    for name, options in SCHEMES.items():
        if options:
            quantize_bundle(plain, folder / name, QuantizeOptions(**options), calibration_documents=DOCUMENTS)
    return [folder / name for name in SCHEMES]


def probe(path: Path) -> dict[str, Any]:
    """The step noise of a bundle, plain and exact, on the processor that this process sees."""
    bundle = codegen_edge.open_bundle(path, check="size")
    plain = open_runtime("cpu", bundle, threads=1)
    fields: dict[str, Any] = {"plain": step_noise(plain)}
    plain.close()
    try:
        open_runtime("cpu", bundle, threads=1, exact_steps=True).close()
        fields["exact"] = "the same bits"
    except RuntimeUnavailableError as exc:
        fields["exact"] = f"refused: {exc}".replace(str(path), path.name)
    return fields


def probe_under(processor: str, paths: list[Path]) -> dict[str, Any]:
    """`probe` of every bundle in one emulated process, by scheme."""
    # The emulated interpreter reads no .pth file, as which the package may be installed.
    own = str(Path(codegen_edge.__file__).parents[1])
    search_path = ":".join([own, *(each for each in sys.path if each)])
    command = ["qemu-x86_64", "-cpu", processor, "-E", f"PYTHONPATH={search_path}", str(Path(sys.executable).resolve())]
    command += ["-m", "benchmarks.emulated", "--probe", *map(str, paths)]
    lines: dict[str, Any] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            click.echo(f"{processor}: {line.rstrip()}")
            lines |= json.loads(line)
    return {"bundles": lines, "exit_status": process.returncode}


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--probe", "is_probe", is_flag=True, help="Probe PATHS in this process; one line of JSON for each.")
def main(paths: tuple[Path, ...], is_probe: bool) -> None:
    """Write benchmarks/results/exactness_emulated.json."""
    if is_probe:
        for path in paths:
            print(json.dumps({path.name: probe(path)}), flush=True)
        return
    result: dict[str, Any] = {"machine": describe_machine(), "processors": {}}
    with tempfile.TemporaryDirectory(prefix="codegen-edge-emulated-") as folder:
        bundles = make_bundles(Path(folder))
        for processor, features in PROCESSORS.items():
            result["processors"][processor] = {"features": features, **probe_under(processor, bundles)}
            RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
