"""What batches, drafts and sessions change, and what exact steps cost: python -m benchmarks.exactness.

counts: completions of the trained checkpoint that differ from those of a plain loop, one row at a time, in every
scheme, with exact steps and without; and whether each difference is a near tie, by the step noise of the scheme.
cost: exact steps against plain ones on the 350M shape, in interleaved rounds.
generate: the same for whole generations of the trained checkpoint, with prompt lookup and without.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
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
from codegen_edge.evaluation.parity.near_ties import is_near_tie, noise_on
from codegen_edge.exporter.random_checkpoint import SHAPES, write_random_checkpoint
from codegen_edge.generation.speculation import common_length
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
GENERATED_PROMPTS = 10
GREEDY = GenerationParams(max_new_tokens=NEW_TOKENS)
SEEDED = GenerationParams(max_new_tokens=NEW_TOKENS, temperature=0.8, seed=11)
TIMED_PROMPT, LONG_PROMPT, TIMED_STEPS, CAPACITY = 128, 1024, 16, 1100

Generate = Callable[[GenerationParams], list[tuple[int, ...]]]


def make(
    checkpoint: str, folder: Path, *, method: str = "gptq", names: Sequence[str] = tuple(SCHEMES)
) -> dict[str, Bundle]:
    """A bundle of every scheme, or of those that are named beside fp32."""
    plain = codegen_edge.export(checkpoint, folder / "fp32", verify=False).bundle
    bundles = {"fp32": plain}
    for name, options in SCHEMES.items():
        if options and name in names:
            own = method if options["scheme"] == "int4" else None
            made = codegen_edge.quantize(plain, folder / name, measure_tokens=0, method=own, **options)
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


def prompts_of(number: int) -> list[str]:
    """Beginnings of programs."""
    files = load_corpus("held-out") + load_corpus("calibration")
    return [file.text[:PROMPT_CHARACTERS] for file in files][:number]


def changes_of(
    model: Model, prompts: list[str], params: GenerationParams, found: dict[str, list[tuple[int, ...]]]
) -> dict[str, dict[str, int]]:
    """By way: completions whose tokens differ from those of each prompt alone; and those of them that are near ties.

    The noise is measured on the very texts: their prompts, and what was generated alone.
    """
    truth = found["alone"]
    tokens = [model.tokenizer.encode(prompt) for prompt in prompts]
    is_changed = [any(ids[place] != truth[place] for ids in found.values()) for place in range(len(prompts))]
    read = {
        place: noise_on(model.runtime, np.array([*tokens[place], *truth[place]], np.int64))
        for place in range(len(prompts))
        if is_changed[place]
    }
    noise = max((each for each, _ in read.values()), default=0.0)

    def is_tie(place: int, other: tuple[int, ...]) -> bool:
        same = common_length(truth[place], other)
        logits = read[place][1][len(tokens[place]) + same - 1, : model.tokenizer.vocab_size]
        uniform = float(np.random.default_rng(params.seed).random(same + 1)[same])
        pair = truth[place][same], other[same]
        return is_near_tie(logits, *pair, noise, temperature=params.temperature, uniform=uniform)

    changes = {}
    for name, completions in found.items():
        changed = [place for place, ids in enumerate(completions) if ids != truth[place]]
        ties = sum(is_tie(place, completions[place]) for place in changed)
        if name != "alone":
            changes[name] = {"changed": len(changed), "near_ties": ties}
    return changes


def count_changes(bundle: Bundle, prompts: list[str], *, exact_steps: bool) -> dict[str, Any]:
    """By way and choice: how many completions differ from those of each prompt alone."""
    options: dict[str, Any] = {"threads": 1} | ({"exact_steps": True} if exact_steps else {})
    with codegen_edge.load_model(bundle.path, check="size", **options) as model:
        fields: dict[str, Any] = {"step_noise": step_noise(model.runtime)}
        generating = ways(model, prompts)
        for choice, params in (("greedy", GREEDY), ("temperature 0.8, seeded", SEEDED)):
            found = {name: generate(params) for name, generate in generating.items()}
            fields[choice] = changes_of(model, prompts, params, found)
    return fields


def measure_counts(folder: Path) -> dict[str, Any]:
    """Of all schemes, on the trained checkpoint."""
    prompts = prompts_of(NUM_PROMPTS)
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
    """Milliseconds of a prefill, of a decode step of one row and of eight, and of a token that is generated."""
    ids = np.random.default_rng(0).integers(0, 1000, (BATCH, LONG_PROMPT))
    figures = {
        "prefill": median_ms(2, lambda: runtime.step(ids[:1, :TIMED_PROMPT], runtime.new_cache(1, CAPACITY))),
        "prefill_1024": median_ms(1, lambda: runtime.step(ids[:1], runtime.new_cache(1, CAPACITY))),
    }
    for name, rows in (("decode", 1), ("decode_8_rows", BATCH)):
        cache = runtime.new_cache(rows, CAPACITY)
        runtime.step(ids[:rows, :TIMED_PROMPT], cache)
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


def time_generation(model: Model, prompts: list[str], draft: str | None = None, batch: int = 1) -> dict[str, float]:
    """Milliseconds per new token over the prompts, `batch` of them at a time."""
    started_at = time.perf_counter()
    num_tokens = 0
    for start in range(0, len(prompts), batch):
        completions = model.generate(prompts[start : start + batch], GREEDY, draft=draft)  # type: ignore[arg-type]
        num_tokens += sum(len(completion.token_ids) for completion in completions)
    return {"per_token": 1e3 * (time.perf_counter() - started_at) / num_tokens}


def measure_generation(folder: Path) -> dict[str, Any]:
    """Plain and exact steps on the trained checkpoint: one row with prompt lookup and without it, and eight rows."""
    prompts = prompts_of(NUM_PROMPTS)[:GENERATED_PROMPTS]
    bundles = make("codegen-5M-mono", folder, method="round")
    schemes, batches = {}, {}
    for name in ("fp32", "int8", "int4", "int8-dynamic"):
        plain = codegen_edge.load_model(bundles[name].path, check="size")
        exact = codegen_edge.load_model(bundles[name].path, check="size", exact_steps=True)
        with plain, exact:
            schemes[name] = _compared(
                {
                    "plain steps": partial(time_generation, plain, prompts),
                    "plain steps, lookup": partial(time_generation, plain, prompts, "prompt-lookup"),
                    "exact steps": partial(time_generation, exact, prompts),
                    "exact steps, lookup": partial(time_generation, exact, prompts, "prompt-lookup"),
                }
            )
            together = prompts_of(2 * BATCH)
            batches[name] = _compared(
                {
                    "plain steps": partial(time_generation, plain, together, batch=BATCH),
                    "exact steps": partial(time_generation, exact, together, batch=BATCH),
                }
            )
        click.echo(f"{name}: {json.dumps(schemes[name])}, {BATCH} rows: {json.dumps(batches[name])}")
    return {
        "num_prompts": len(prompts),
        "new_tokens": NEW_TOKENS,
        "schemes": schemes,
        "batch": BATCH,
        "batches": batches,
    }


def _compared(sides: dict[str, Callable[[], dict[str, float]]]) -> dict[str, dict[str, Any]]:
    rounds = interleave(sides, rounds=ROUNDS)
    return {
        side: {
            "milliseconds_per_token": rounds.spread(side, "per_token").to_dict(),
            **comparison(rounds, side, "per_token"),
        }
        for side in sides
    }


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


PARTS = {"counts": measure_counts, "cost": measure_cost, "generate": measure_generation}


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)))
def main(parts: tuple[str, ...]) -> None:
    """Write benchmarks/results/exactness.json; PARTS measures some of it anew."""
    result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for part in parts or PARTS:
        with tempfile.TemporaryDirectory(prefix="codegen-edge-exactness-") as folder:
            measured = PARTS[part](Path(folder))
        result[part] = {"machine": describe_machine(), **measured}
        RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
