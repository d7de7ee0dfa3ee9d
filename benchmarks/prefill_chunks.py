"""How long a prompt takes by the tokens of a step: python -m benchmarks.prefill_chunks.

The 350M shape (random: kernels do not know the difference) in every precision. The sizes take turns in every round; the
first one is what the runtimes take that name no size, and what the others are compared with.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.harness import comparison, interleave
from benchmarks.machine import describe_machine
from benchmarks.random_checkpoint import TEXTS
from codegen_edge.exporter import export_checkpoint, locate_checkpoint
from codegen_edge.exporter.random_checkpoint import SHAPES, write_random_checkpoint
from codegen_edge.quantization import QuantizeOptions, quantize_bundle
from codegen_edge.runtimes import Runtime, open_runtime

RESULT = Path(__file__).parent / "results" / "prefill_chunks.json"
CHUNKS = (512, 64, 128, 256, 1024)
PROMPT_TOKENS, ROUNDS = 1024, 5
# The values of the codes are no matter.
VARIANTS: dict[str, dict[str, Any] | None] = {
    "fp32": None,
    "int8": {"scheme": "int8"},
    "int8, int8 KV cache": {"scheme": "int8", "kv_cache": "int8"},
    "int8-dynamic": {"scheme": "int8-dynamic"},
    "int4": {"scheme": "int4", "method": "round"},
}


def reading(runtime: Runtime, chunk: int) -> Callable[[], dict[str, float]]:
    """What measures the seconds of a prompt that is read by `chunk` tokens."""
    ids = np.random.default_rng(0).integers(0, 1000, (1, PROMPT_TOKENS))

    def measure() -> dict[str, float]:
        cache = runtime.new_cache(1, PROMPT_TOKENS)
        started = time.perf_counter()
        for start in range(0, PROMPT_TOKENS, chunk):
            runtime.step(ids[:, start : start + chunk], cache)
        return {"prefill_s": time.perf_counter() - started}

    return measure


def measure(runtime: Runtime, name: str) -> dict[str, Any]:
    """By size of a chunk: seconds, and how many times as fast as the first size."""
    rounds = interleave({str(chunk): reading(runtime, chunk) for chunk in CHUNKS}, rounds=ROUNDS)
    found = {
        chunk: {"prefill_s": rounds.spread(chunk, "prefill_s").to_dict(), **comparison(rounds, chunk, "prefill_s")}
        for chunk in map(str, CHUNKS)
    }
    for chunk, figures in found.items():
        click.echo(f"{name}, {chunk} tokens: {figures['prefill_s']}, {figures['speedup']}")
    return found


def main() -> None:
    """Measure and write benchmarks/results/prefill_chunks.json."""
    found = {}
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent.parent, prefix=".demo-") as folder:
        checkpoint = Path(folder) / "checkpoint"
        write_random_checkpoint(checkpoint, SHAPES["350M"], texts=TEXTS)
        fp32 = export_checkpoint(locate_checkpoint(str(checkpoint)), Path(folder) / "fp32")
        calibration = [np.random.default_rng(0).integers(0, 1000, 256)]
        make = partial(quantize_bundle, fp32, Path(folder) / "quantized", calibration_documents=calibration)
        for name, options in VARIANTS.items():
            bundle = fp32 if options is None else make(QuantizeOptions(**options, overwrite=True))[0]
            runtime = open_runtime("cpu", bundle)
            found[name] = measure(runtime, name)
            runtime.close()
    result = {"machine": describe_machine(), "prompt_tokens": PROMPT_TOKENS, "rounds": ROUNDS, "variants": found}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
