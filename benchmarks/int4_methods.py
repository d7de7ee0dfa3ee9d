"""Seconds and peak memory of every method of int4 on the 350M shape: python -m benchmarks.int4_methods.

Every command runs in a process of its own, in interleaved rounds: `export --precision int4`, which streams a checkpoint
of float16, and `quantize --scheme int4` of a float32 bundle. Neither measures what its codes lose, which is
benchmarks.quantization's matter.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path

import click
import torch

from benchmarks.harness import interleave
from benchmarks.machine import describe_machine
from benchmarks.peers.artifacts import run_command
from benchmarks.random_checkpoint import TEXTS
from codegen_edge.exporter import export_checkpoint, locate_checkpoint
from codegen_edge.exporter.random_checkpoint import SHAPES, write_random_checkpoint

RESULT = Path(__file__).parent / "results" / "int4_methods.json"
CODEGEN_EDGE = [sys.executable, "-m", "codegen_edge"]
# The most seconds that a method may take.
TARGETS = {"export, search": 60.0, "quantize, search": 60.0, "quantize, gptq": 300.0}


def commands(checkpoint: Path, fp32: Path, out: Path) -> dict[str, list[str]]:
    """By name."""
    export = [*CODEGEN_EDGE, "export", str(checkpoint), str(out), "--precision", "int4", "--no-verify"]
    quantize = [*CODEGEN_EDGE, "quantize", str(fp32), str(out), "--scheme", "int4", "--measure-tokens", "0"]
    made = {f"export, {method}": [*export, "--method", method] for method in ("round", "search")}
    return made | {f"quantize, {method}": [*quantize, "--method", method] for method in ("round", "search", "gptq")}


@click.command()
@click.option("--rounds", type=click.IntRange(2), default=3, show_default=True)
def main(rounds: int) -> None:
    """Measure, and write benchmarks/results/int4_methods.json; exit code 1 where a target is missed."""
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent.parent, prefix=".demo-") as folder:
        checkpoint, fp32, out = (Path(folder) / name for name in ("checkpoint", "fp32", "out"))
        write_random_checkpoint(checkpoint, SHAPES["350M"], texts=TEXTS, dtype=torch.float16)
        export_checkpoint(locate_checkpoint(str(checkpoint)), fp32)

        def turn(command: list[str]) -> dict[str, float]:
            shutil.rmtree(out, ignore_errors=True)
            return asdict(run_command(command))

        def on_round(number: int, name: str, figures: dict[str, float]) -> None:
            took = f"{figures['seconds']:.0f} s, {figures['peak_rss_bytes'] / 1e9:.2f} GB"
            click.echo(f"round {number + 1} of {rounds}: {name}: {took}")

        sides = {name: partial(turn, command) for name, command in commands(checkpoint, fp32, out).items()}
        measured = interleave(sides, rounds=rounds, is_first_doubled=False, on_round=on_round)
    rows = [
        {
            "method": name,
            "seconds": measured.spread(name, "seconds").to_dict(),
            "peak_rss_bytes": measured.spread(name, "peak_rss_bytes").to_dict(),
            "most_seconds": TARGETS.get(name),
        }
        for name in sides
    ]
    RESULT.write_text(json.dumps({"machine": describe_machine(), "rounds": rounds, "methods": rows}, indent=2) + "\n")
    missed = [name for name, most in TARGETS.items() if measured.spread(name, "seconds").median > most]
    for name in missed:
        click.echo(f"{name}: more than {TARGETS[name]:.0f} s")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
