"""Runtime openvino beside runtime cpu on one processor: python -m benchmarks.openvino_cpu.

The 350M shape (random: kernels do not know the difference) in fp32, int8 and int4: a prefill, decode steps behind it,
and decode steps behind a long past, in interleaved rounds, both with all threads.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.harness import ROUNDS, comparison, interleave, median_ms
from benchmarks.machine import describe_machine
from benchmarks.random_checkpoint import TEXTS
from codegen_edge.bundle import Bundle
from codegen_edge.dependencies import package_versions
from codegen_edge.exporter import export_checkpoint, locate_checkpoint
from codegen_edge.exporter.random_checkpoint import SHAPES, write_random_checkpoint
from codegen_edge.quantization import QuantizeOptions, quantize_bundle
from codegen_edge.runtimes import Runtime, open_runtime

RESULT = Path(__file__).parent / "results" / "openvino.json"
SCHEMES = {"fp32": None, "int8": QuantizeOptions(scheme="int8"), "int4": QuantizeOptions(scheme="int4", method="round")}
PROMPT_TOKENS, DECODE_TOKENS, LONG_PAST = 128, 24, 1000


def timed(runtime: Runtime) -> Callable[[], dict[str, float]]:
    """Measures a prefill, and the median of decode steps behind a short and a long past, in milliseconds."""
    ids = np.random.default_rng(0).integers(0, 1000, (1, LONG_PAST))
    capacity = LONG_PAST + 2 * DECODE_TOKENS

    def measure() -> dict[str, float]:
        prefill = median_ms(3, lambda: runtime.step(ids[:, :PROMPT_TOKENS], runtime.new_cache(1, capacity)))
        cache = runtime.new_cache(1, capacity)
        runtime.step(ids[:, :PROMPT_TOKENS], cache)
        decode = median_ms(DECODE_TOKENS, lambda: runtime.step(ids[:, :1], cache))
        for start in range(int(cache.lengths[0]), LONG_PAST, 256):
            runtime.step(ids[:, start : start + 256], cache)
        return {
            "prefill_ms": prefill,
            "decode_ms": decode,
            "long_decode_ms": median_ms(DECODE_TOKENS, lambda: runtime.step(ids[:, :1], cache)),
        }

    return measure


def measure(bundle: Bundle, rounds: int) -> dict[str, Any]:
    """Both runtimes on a bundle: their times, and openvino's against cpu's."""
    runtimes = {name: open_runtime(name, bundle) for name in ("cpu", "openvino")}
    try:
        found = interleave({name: timed(runtime) for name, runtime in runtimes.items()}, rounds=rounds)
    finally:
        for runtime in runtimes.values():
            runtime.close()
    return {
        figure: {
            "cpu": found.spread("cpu", figure).to_dict(1),
            "openvino": found.spread("openvino", figure).to_dict(1),
            **comparison(found, "openvino", figure),
        }
        for figure in ("prefill_ms", "decode_ms", "long_decode_ms")
    }


@click.command()
@click.option("--rounds", type=click.IntRange(min=2), default=ROUNDS, show_default=True)
@click.option("--scheme", "schemes", type=click.Choice(list(SCHEMES)), multiple=True, help="Measure these only.")
def main(rounds: int, schemes: tuple[str, ...]) -> None:
    """Write benchmarks/results/openvino.json, whole or the rows of the schemes that were given."""
    result = json.loads(RESULT.read_text()) if schemes and RESULT.is_file() else {"runs": {}}
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent.parent, prefix=".demo-") as folder:
        write_random_checkpoint(Path(folder) / "checkpoint", SHAPES["350M"], texts=TEXTS)
        plain = export_checkpoint(locate_checkpoint(f"{folder}/checkpoint"), Path(folder) / "fp32")
        for scheme in schemes or SCHEMES:
            options = SCHEMES[scheme]
            bundle = plain if options is None else quantize_bundle(plain, Path(folder) / scheme, options)[0]
            result["runs"][scheme] = measure(bundle, rounds)
            click.echo(f"{scheme}: {json.dumps(result['runs'][scheme])}")
    result |= {
        "machine": describe_machine() | {"openvino": package_versions("openvino")["openvino"]},
        "rounds": rounds,
        "prompt_tokens": PROMPT_TOKENS,
        "long_past": LONG_PAST,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
