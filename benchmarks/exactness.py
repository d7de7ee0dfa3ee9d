"""What batches, drafts and sessions change, and what exact steps cost: python -m benchmarks.exactness.

counts: completions of the trained checkpoint that differ from those of a plain loop, one row at a time, in every
scheme, with exact steps and without; and whether each difference is a near tie, by the step noise of the scheme.
cost: exact steps against plain ones on the 350M shape, in interleaved rounds.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np

import codegen_edge
from benchmarks.harness import ROUNDS, Rounds, comparison, interleave, median_ms
from benchmarks.machine import describe_machine
from benchmarks.random_checkpoint import TEXTS
from codegen_edge import Completion, GenerationParams, Model
from codegen_edge.bundle import Bundle
from codegen_edge.checkpoints.corpora import load_corpus
from codegen_edge.exporter.random_checkpoint import SHAPES, write_random_checkpoint
from codegen_edge.ort_session import default_threads
from codegen_edge.runtimes import Runtime, open_runtime
from codegen_edge.runtimes.backends.ort_exact import step_noise

RESULT = Path(__file__).parent / "results" / "exactness.json"
SCHEMES: dict[str, dict[str, Any]] = {
    "fp32": {},
    "fp16": {"scheme": "fp16"},
    "int8": {"scheme": "int8"},
    "int4": {"scheme": "int4"},
    "int8-dynamic": {"scheme": "int8-dynamic"},
    "int8, int8 KV cache": {"scheme": "int8", "kv_cache": "int8"},
    "int4, int8 KV cache": {"scheme": "int4", "kv_cache": "int8"},
    "int8-dynamic, int8 KV cache": {"scheme": "int8-dynamic", "kv_cache": "int8"},
}
NUM_PROMPTS, PROMPT_CHARACTERS, NEW_TOKENS, BATCH = 40, 160, 80, 8
GREEDY = GenerationParams(max_new_tokens=NEW_TOKENS)
SEEDED = GenerationParams(max_new_tokens=NEW_TOKENS, temperature=0.8, seed=11)
TIMED_PROMPT, TIMED_STEPS, CAPACITY = 128, 16, 512

Generate = Callable[[GenerationParams], list[tuple[int, ...]]]


def make(checkpoint: str, folder: Path, *, method: str = "gptq") -> dict[str, Bundle]:
    """A bundle of every scheme."""
    plain = codegen_edge.export(checkpoint, folder / "fp32", verify=False).bundle
    bundles = {"fp32": plain}
    for name, options in SCHEMES.items():
        if options:
            made = codegen_edge.quantize(plain, folder / name, measure_tokens=0, method=method, **options)
            bundles[name] = made.bundle
    return bundles


def ids_of(completions: Sequence[Completion]) -> list[tuple[int, ...]]:
    """The tokens of each."""
    return [completion.token_ids for completion in completions]


def ways(model: Model, prompts: list[str]) -> dict[str, Generate]:
    """How the same prompts may be completed; the first way is what the others are compared with."""

    def in_batches(params: GenerationParams) -> list[tuple[int, ...]]:
        parts = [prompts[start : start + BATCH] for start in range(0, len(prompts), BATCH)]
        return [ids for part in parts for ids in ids_of(model.generate(part, params))]

    def in_sessions(params: GenerationParams) -> list[tuple[int, ...]]:
        """The prompt in two turns: half of it is cached when the rest is read."""
        found = []
        for prompt in prompts:
            ids = model.tokenizer.encode(prompt)
            session = model.session()
            session.append(model.tokenizer.decode(ids[: len(ids) // 2]))
            session.generate(max_new_tokens=1)
            session.rewind(0)
            session.append(prompt)
            found.append(session.generate(params).token_ids)
        return found

    return {
        "alone": lambda params: ids_of([model.generate(prompt, params) for prompt in prompts]),
        "prompt-lookup": lambda params: ids_of(
            [model.generate(prompt, params, draft="prompt-lookup") for prompt in prompts]
        ),
        "draft model": lambda params: ids_of([model.generate(prompt, params, draft=model) for prompt in prompts]),
        "batch of 8": in_batches,
        "session": in_sessions,
        "chunks of 7": lambda params: ids_of([model.generate(prompt, params, prefill_chunk=7) for prompt in prompts]),
    }


def count_changes(bundle: Bundle, prompts: list[str], *, exact_steps: bool) -> dict[str, Any]:
    """By way and choice: how many completions differ from those of each prompt alone."""
    options: dict[str, Any] = {"threads": 1} | ({"exact_steps": True} if exact_steps else {})
    with codegen_edge.load_model(bundle.path, check="size", **options) as model:
        fields: dict[str, Any] = {"step_noise": step_noise(model.runtime)}
        generating = ways(model, prompts)
        for choice, params in (("greedy", GREEDY), ("temperature 0.8, seeded", SEEDED)):
            truth = generating["alone"](params)
            fields[choice] = {
                name: sum(one != other for one, other in zip(truth, generate(params), strict=True))
                for name, generate in generating.items()
                if name != "alone"
            }
    return fields


def measure_counts(folder: Path) -> dict[str, Any]:
    """Of all schemes, on the trained checkpoint."""
    files = load_corpus("held-out") + load_corpus("calibration")
    prompts = [file.text[:PROMPT_CHARACTERS] for file in files][:NUM_PROMPTS]
    bundles = make("codegen-5M-mono", folder)
    results = {}
    with ProcessPoolExecutor(default_threads()) as pool:  # nothing is timed here
        pending = {
            (name, kind): pool.submit(count_changes, bundle, prompts, exact_steps=kind == "exact")
            for name, bundle in bundles.items()
            for kind in ("plain", "exact")
        }
        for name in bundles:
            results[name] = {kind: pending[name, kind].result() for kind in ("plain", "exact")}
            click.echo(f"{name}: {json.dumps(results[name])}")
    return {"num_completions": len(prompts), "new_tokens": NEW_TOKENS, "schemes": results}


def time_steps(runtime: Runtime) -> dict[str, float]:
    """Milliseconds of a decode step of one row and of eight, and of a prefill."""
    ids = np.random.default_rng(0).integers(0, 1000, (BATCH, TIMED_PROMPT))
    figures = {"prefill": median_ms(2, lambda: runtime.step(ids[:1], runtime.new_cache(1, CAPACITY)))}
    for name, rows in (("decode", 1), ("decode_8_rows", BATCH)):
        cache = runtime.new_cache(rows, CAPACITY)
        runtime.step(ids[:rows], cache)
        figures[name] = median_ms(TIMED_STEPS, lambda rows=rows, cache=cache: runtime.step(ids[:rows, :1], cache))  # type: ignore[misc]
    return figures


def measure_cost(folder: Path) -> dict[str, Any]:
    """Of the schemes that differ in speed, on the 350M shape; and every scheme against float32."""
    write_random_checkpoint(folder / "checkpoint", SHAPES["350M"], texts=TEXTS)
    chosen = {name: SCHEMES[name] for name in ("fp32", "int8", "int4", "int8-dynamic")}
    plain = codegen_edge.export(folder / "checkpoint", folder / "fp32", verify=False).bundle
    bundles = {"fp32": plain}
    for name, options in chosen.items():
        if options:
            bundles[name] = codegen_edge.quantize(
                plain, folder / name, measure_tokens=0, method="round", **options
            ).bundle
    sides: dict[str, Callable[[], dict[str, float]]] = {}
    for name, bundle in bundles.items():
        for kind in ("", ", exact steps"):
            sides[name + kind] = _side(bundle, {"exact_steps": True} if kind else {})

    def report(number: int, name: str, figures: dict[str, float]) -> None:
        click.echo(f"round {number}, {name}: {json.dumps(figures)}")

    rounds = interleave(sides, rounds=ROUNDS, on_round=report)
    return {name: _figures(rounds, name) for name in sides}


def _side(bundle: Bundle, options: dict[str, Any]) -> Callable[[], dict[str, float]]:
    def measure() -> dict[str, float]:
        runtime = open_runtime("cpu", bundle, **options)
        try:
            return time_steps(runtime)
        finally:
            runtime.close()

    return measure


def _figures(rounds: Rounds, side: str) -> dict[str, Any]:
    figures = rounds.times[side]
    fields: dict[str, Any] = {f"{figure}_ms": rounds.spread(side, figure).to_dict() for figure in figures} | {
        f"{figure}_against_fp32": comparison(rounds, side, figure) for figure in figures
    }
    plain = side.removesuffix(", exact steps")
    if plain != side:
        fields |= {
            f"{figure}_cost": sorted(
                round(exact / base - 1, 4)
                for exact, base in zip(figures[figure], rounds.times[plain][figure], strict=True)
            )
            for figure in figures
        }
    return fields


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(["counts", "cost"]))
def main(parts: tuple[str, ...]) -> None:
    """Write benchmarks/results/exactness.json; PARTS measures some of it anew."""
    result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for part in parts or ("counts", "cost"):
        with tempfile.TemporaryDirectory(prefix="codegen-edge-exactness-") as folder:
            measured = measure_counts(Path(folder)) if part == "counts" else measure_cost(Path(folder))
        result[part] = {"machine": describe_machine(), **measured}
        RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
