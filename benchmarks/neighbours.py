"""What a busy neighbour costs, and what a waiting thread's spinning has to do with it: python -m benchmarks.neighbours.

Decode steps of the 350M shape in int8 (random: kernels do not know the difference) beside 0, 1 and 2 processes that
burn a core each. Three sides take turns in every round: onnxruntime's own way to wait, ours, and none at all.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.harness import comparison, interleave
from benchmarks.machine import describe_machine
from benchmarks.peers.measuring import busy_neighbours
from benchmarks.random_checkpoint import TEXTS
from codegen_edge import ort_session
from codegen_edge.bundle import Bundle
from codegen_edge.exporter import export_checkpoint, locate_checkpoint
from codegen_edge.exporter.random_checkpoint import SHAPES, write_random_checkpoint
from codegen_edge.quantization import QuantizeOptions, quantize_bundle
from codegen_edge.runtimes import Runtime, open_runtime

RESULT = Path(__file__).parent / "results" / "neighbours.json"
NEIGHBOURS = (0, 1, 2)
PROMPT_TOKENS, STEPS, ROUNDS = 128, 16, 7
# The first side is what the others are compared with.
WAITS: Mapping[str, Mapping[str, str]] = {
    "onnxruntime's": {},
    "20 us": ort_session.THREADING,
    "none": {"session.intra_op.allow_spinning": "0"},
}


def opened(bundle: Bundle, threading: Mapping[str, str]) -> Runtime:
    """The bundle's runtime, whose threads wait as `threading` says."""
    own, ort_session.THREADING = ort_session.THREADING, dict(threading)
    try:
        return open_runtime("cpu", bundle)
    finally:
        ort_session.THREADING = own


def decoding(runtime: Runtime) -> Callable[[], dict[str, float]]:
    """What measures the milliseconds of a decode step behind a prompt."""
    prompt = np.random.default_rng(0).integers(0, 50_000, (1, PROMPT_TOKENS))
    cache = runtime.new_cache(1, PROMPT_TOKENS + STEPS)
    runtime.step(prompt, cache)

    def measure() -> dict[str, float]:
        cache.rewind(0, PROMPT_TOKENS)
        started = time.perf_counter()
        for _ in range(STEPS):
            runtime.step(prompt[:, :1], cache)
        return {"step_ms": 1000 * (time.perf_counter() - started) / STEPS}

    return measure


def measure(bundle: Bundle) -> dict[str, Any]:
    """Every number of neighbours beside every way to wait."""
    runtimes = {name: opened(bundle, threading) for name, threading in WAITS.items()}
    sides = {name: decoding(runtime) for name, runtime in runtimes.items()}
    result = {}
    for count in NEIGHBOURS:
        with busy_neighbours(count):
            rounds = interleave(sides, rounds=ROUNDS)
        result[str(count)] = {
            name: {"step_ms": rounds.spread(name, "step_ms").to_dict(1), **comparison(rounds, name, "step_ms")}
            for name in WAITS
        }
        for name, figures in result[str(count)].items():
            click.echo(f"{count} neighbours, {name}: {figures['step_ms']} ms, {figures['speedup']}")
    return result


def main() -> None:
    """Measure and write benchmarks/results/neighbours.json."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, bundle = Path(folder) / "checkpoint", Path(folder) / "fp32"
        write_random_checkpoint(checkpoint, SHAPES["350M"], texts=TEXTS)
        exported = export_checkpoint(locate_checkpoint(str(checkpoint)), bundle)
        int8, _ = quantize_bundle(exported, Path(folder) / "int8", QuantizeOptions(scheme="int8"))
        result = measure(int8)
    RESULT.write_text(json.dumps({"machine": describe_machine(), "neighbours": result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
