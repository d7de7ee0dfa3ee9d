"""What every scheme costs and gains: python -m benchmarks.quantization [quality] [speed].

Quality is measured on the trained checkpoint that ships, over its whole held-out sample; speed on the 350M shape with
random weights, whose kernels do not know the difference: interleaved rounds (see harness.py).
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.harness import comparison, interleave, median_ms
from benchmarks.machine import describe_machine
from benchmarks.random_checkpoint import TEXTS
from codegen_edge.bundle import Bundle
from codegen_edge.checkpoints.corpora import load_corpus
from codegen_edge.evaluation.quality.damage import measure_damage
from codegen_edge.evaluation.quality.scoring import document_ids
from codegen_edge.exporter import export_checkpoint, locate_checkpoint
from codegen_edge.exporter.random_checkpoint import SHAPES, write_random_checkpoint
from codegen_edge.quantization import QuantizeOptions, quantize_bundle
from codegen_edge.runtimes import KVCache, Logits, Runtime, TokenIds, open_runtime
from codegen_edge.tokenizer import Tokenizer

RESULT = Path(__file__).parent / "results" / "quantization.json"
CHECKPOINT = "codegen-5M-mono"
PROMPT_TOKENS, DECODE_TOKENS = 128, 64
LONG_PAST = 1900
QUALITY: dict[str, dict[str, Any]] = {
    "int8": {"scheme": "int8"},
    "int8, int8 KV cache": {"scheme": "int8", "kv_cache": "int8"},
    "int4 (default)": {"scheme": "int4"},
    "int4, plain rounding": {"scheme": "int4", "method": "round"},
    "int8-dynamic": {"scheme": "int8-dynamic"},
    "int4, blocks of 32": {"scheme": "int4", "block_size": 32},
    "int4, blocks of 128": {"scheme": "int4", "block_size": 128},
    "int4 everywhere": {"scheme": "int4", "kept_at_8_bits": frozenset()},
    "int4 everywhere, plain rounding": {"scheme": "int4", "kept_at_8_bits": frozenset(), "method": "round"},
}
SPEED: dict[str, dict[str, Any] | None] = {
    "fp32": None,
    "int8": {"scheme": "int8"},
    "int8-dynamic": {"scheme": "int8-dynamic"},
    "int4 (default)": {"scheme": "int4", "method": "round"},  # the codes' values are no matter
    "int8, int8 KV cache": {"scheme": "int8", "kv_cache": "int8"},
}


STEP_TOKENS = (2, 4, 8, 16)


def calibration_ids(bundle: Bundle) -> list[Any]:
    """The calibration programs that ship, in the bundle's tokens."""
    tokenizer = Tokenizer(bundle.tokenizer_path)
    return [document_ids(tokenizer, file.text) for file in load_corpus("calibration")]


def measure_quality(folder: Path, chosen: Container[str]) -> list[dict[str, Any]]:
    """Quantize the trained checkpoint in every way and compare with its float32 bundle."""
    float_bundle = export_checkpoint(locate_checkpoint(CHECKPOINT), folder / "fp32")
    tokenizer = Tokenizer(float_bundle.tokenizer_path)
    held_out = [file.text for file in load_corpus("held-out")]
    calibration = calibration_ids(float_bundle)
    reference = Replayed(open_runtime("cpu", float_bundle))
    rows = []
    for name, options in QUALITY.items():
        if name not in chosen:
            continue
        started = time.perf_counter()
        bundle, report = quantize_bundle(
            float_bundle,
            folder / "quantized",
            QuantizeOptions(**options, overwrite=True),
            calibration_documents=calibration,
        )
        seconds = time.perf_counter() - started
        candidate = open_runtime("cpu", bundle)
        damage = measure_damage(candidate, reference, tokenizer, held_out)
        candidate.close()
        reference.start_again()
        row = {"variant": name, **damage.to_dict(), **sizes(bundle, float_bundle), "seconds": round(seconds, 1)}
        row["mean_relative_error"] = float(np.mean([tensor.relative_error for tensor in report.tensors]))
        rows.append(row)
        click.echo(
            f"{name}: perplexity {damage.perplexity_loss:+.3%}, KL {damage.mean_kl:.2e}, top-1 "
            f"{damage.top1_agreement:.2%}, {row['size_ratio']:.3f} of the bytes, {seconds:.0f} s"
        )
    return rows


class Replayed:
    """Computes the float model's logits once (1.5 GB), and gives them again to every variant, which feeds the same."""

    name = "replayed"

    def __init__(self, runtime: Runtime) -> None:
        self.config = runtime.config
        self._runtime = runtime
        self._logits: list[Logits] = []
        self._place = 0

    def start_again(self) -> None:
        """The next step is the first one again."""
        self._place = 0

    def new_cache(self, batch_size: int, capacity: int) -> KVCache:
        """Of the runtime."""
        return self._runtime.new_cache(batch_size, capacity)

    def step(self, token_ids: TokenIds, cache: KVCache, **options: Any) -> Logits:
        """What was computed for this step before, or what is computed now."""
        if self._place == len(self._logits):
            self._logits.append(self._runtime.step(token_ids, cache, **options))
        logits = self._logits[self._place]
        assert logits.shape[1] == token_ids.shape[1]
        self._place += 1
        return logits

    def close(self) -> None:
        """Free the runtime."""
        self._runtime.close()


def sizes(bundle: Bundle, float_bundle: Bundle) -> dict[str, Any]:
    """Bytes of graph and weights, and their share of the float32 ones."""

    def size_bytes(each: Bundle) -> int:
        return sum(record.size_bytes for name, record in each.manifest.files.items() if name.startswith("onnx/"))

    return {"size_bytes": size_bytes(bundle), "size_ratio": size_bytes(bundle) / size_bytes(float_bundle)}


def measure_speed(folder: Path, chosen: Container[str]) -> list[dict[str, Any]]:
    """Prefill, decode, and decode behind a long past, of every variant of the 350M shape."""
    write_random_checkpoint(folder / "checkpoint", SHAPES["350M"], texts=TEXTS)
    float_bundle = export_checkpoint(locate_checkpoint(str(folder / "checkpoint")), folder / "350M-fp32")
    bundles = {}
    for number, (name, options) in enumerate(SPEED.items()):
        if options is not None and name not in chosen:
            continue
        if options is None:
            bundles[name] = float_bundle
            continue
        calibration = [np.random.default_rng(0).integers(0, 1000, 256)]
        bundles[name], _ = quantize_bundle(
            float_bundle, folder / f"350M-{number}", QuantizeOptions(**options), calibration_documents=calibration
        )

    def side(bundle: Bundle) -> Callable[[], dict[str, float]]:
        def measure() -> dict[str, float]:
            runtime = open_runtime("cpu", bundle)
            try:
                return time_runtime(runtime)
            finally:
                runtime.close()

        return measure

    rounds = interleave(
        {name: side(bundle) for name, bundle in bundles.items()},
        on_round=lambda number, name, figures: click.echo(f"round {number + 1}, {name}: {figures}"),
    )
    return [
        {
            "variant": name,
            **{figure: rounds.spread(name, figure).to_dict() for figure in figures},
            "speedups": {
                figure.removesuffix("_ms"): comparison(rounds, name, figure) for figure in figures if name != "fp32"
            },
            **sizes(bundles[name], float_bundle),
        }
        for name, figures in rounds.times.items()
    ]


def time_runtime(runtime: Runtime) -> dict[str, float]:
    """Milliseconds: of a prefill, medians of decode steps after a short and after a long past, and of longer steps."""
    ids = np.random.default_rng(0).integers(0, 1000, (1, LONG_PAST))
    times = {"prefill_ms": median_ms(3, lambda: runtime.step(ids[:, :PROMPT_TOKENS], runtime.new_cache(1, 2048)))}
    cache = runtime.new_cache(1, 2048)
    runtime.step(ids[:, :PROMPT_TOKENS], cache)
    times["decode_ms"] = median_ms(DECODE_TOKENS, lambda: runtime.step(ids[:, :1], cache))
    for count in STEP_TOKENS:  # what speculation and batches live on

        def step(count: int = count) -> None:
            cache.rewind(0, PROMPT_TOKENS)
            runtime.step(ids[:, :count], cache)

        times[f"step_of_{count}_ms"] = median_ms(9, step)
    for start in range(int(cache.lengths[0]), LONG_PAST, 512):
        runtime.step(ids[:, start : start + 512], cache)
    times["long_decode_ms"] = median_ms(DECODE_TOKENS, lambda: runtime.step(ids[:, :1], cache))
    return times


@click.command()
@click.argument("parts", type=click.Choice(["quality", "speed"]), nargs=-1)
@click.option("--variant", "variants", multiple=True, help="Measure this one anew, leave the others' rows.")
def main(parts: tuple[str, ...], variants: tuple[str, ...]) -> None:
    """Write benchmarks/results/quantization.json, or the given parts of it.

    A variant's speed is compared with the float bundle of the same run, whichever rows are kept.
    """
    result = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    measures = {"quality": measure_quality, "speed": measure_speed}
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent.parent, prefix=".demo-") as folder:
        for part in parts or measures:
            kept = {row["variant"]: row for row in result[part]["variants"]} if variants else {}
            measured = measures[part](Path(folder), variants or (*QUALITY, *SPEED))
            if variants:  # the other rows stay what they were, and so does the machine that they name
                machine = {"machine": describe_machine()}
                rows = kept | {row["variant"]: row | machine for row in measured if row["variant"] in variants}
                result[part]["variants"] = list(rows.values())
            else:
                result[part] = {"machine": describe_machine(), "variants": measured}
            RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
