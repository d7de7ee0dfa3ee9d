"""What the generation loop costs and saves: python -m benchmarks.generation.

On the 350M shape with int8 weights, weight-only and dynamic (random: kernels do not know the difference); interleaved
rounds (see harness.py).
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import ROUNDS, Spread, comparison, interleave
from benchmarks.machine import describe_machine
from benchmarks.random_checkpoint import TEXTS
from codegen_edge import load_model
from codegen_edge.checkpoints.corpora import load_corpus
from codegen_edge.exporter import export_checkpoint, locate_checkpoint
from codegen_edge.exporter.random_checkpoint import SHAPES, write_random_checkpoint
from codegen_edge.generation import GenerationLoop, GenerationParams
from codegen_edge.generation.model import Model
from codegen_edge.generation.speculation import PromptLookup, Speculator
from codegen_edge.ort_session import load_onnxruntime
from codegen_edge.quantization import QuantizeOptions, quantize_bundle
from codegen_edge.runtimes import Runtime

RESULT = Path(__file__).parent / "results" / "generation.json"
SCHEMES = ("int8", "int8-dynamic")
PROMPT_TOKENS, NEW_TOKENS = 128, 64
WARM_STEPS = 4
SESSION_TOKENS, TURN_TOKENS = 1500, 8


@contextlib.contextmanager
def timed_session_runs() -> Iterator[list[float]]:
    """Collect the seconds of every run of any session of onnxruntime."""
    kind, seconds = load_onnxruntime().InferenceSession, []
    run = kind.run_with_iobinding

    def timed(*arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        result = run(*arguments, **options)
        seconds.append(time.perf_counter() - started)
        return result

    kind.run_with_iobinding = timed
    try:
        yield seconds
    finally:
        kind.run_with_iobinding = run


def measure_overhead(runtime: Runtime) -> dict[str, Any]:
    """What the loop adds to the run of the graph, within the very same greedy decode steps."""
    ids = np.random.default_rng(0).integers(0, 1000, PROMPT_TOKENS).tolist()
    params = GenerationParams(max_new_tokens=NEW_TOKENS)
    added_ms: list[float] = []
    shares: list[float] = []
    for _ in range(ROUNDS):
        with timed_session_runs() as runs:
            times = [time.perf_counter() for _ in GenerationLoop(runtime, [ids], params)]
        steps = np.diff(times)[WARM_STEPS:]
        own = steps - np.array(runs[1:])[WARM_STEPS:]  # the first run is the prefill
        added_ms.append(1000 * float(np.median(own)))
        shares.append(float(np.median(own / steps)))
    return {"added_ms": Spread.of(added_ms).to_dict(), "share": Spread.of(shares).to_dict(4)}


def measure_batch(runtime: Runtime) -> dict[str, Any]:
    """Milliseconds per token of eight rows against those of one."""
    prompts = np.random.default_rng(1).integers(0, 1000, (8, PROMPT_TOKENS)).tolist()
    params = GenerationParams(max_new_tokens=NEW_TOKENS)

    def side(size: int) -> Callable[[], dict[str, float]]:
        def measure() -> dict[str, float]:
            loop = iter(GenerationLoop(runtime, prompts[:size], params))
            for _ in range(size):
                next(loop)
            started, count = time.perf_counter(), sum(1 for _ in loop)
            return {"token_ms": 1000 * (time.perf_counter() - started) / count}

        return measure

    rounds = interleave({"one row": side(1), "eight rows": side(8)})
    return comparison(rounds, "eight rows", "token_ms")


def scripted(answer: Sequence[int], prompt_length: int) -> Any:
    """A hook that makes the answer what the model chooses, so that an edit can be had of random weights."""

    def processor(ids: Sequence[int], scores: NDArray[np.float32]) -> NDArray[np.float32]:
        forced = np.full_like(scores, -np.inf)
        forced[answer[len(ids) - prompt_length]] = 0
        return forced

    return processor


def edit_task() -> tuple[list[int], list[int]]:
    """A prompt of 400 tokens and the answer that repeats it, every 25th token changed."""
    rng = np.random.default_rng(2)
    prompt = rng.integers(0, 1000, 400)
    answer = prompt.copy()
    answer[12::25] = rng.integers(1000, 1900, len(answer[12::25]))
    return prompt.tolist(), answer[:200].tolist()


def fresh_task() -> tuple[list[int], list[int]]:
    """An answer that repeats nothing but short runs, as code does: guesses come, and are mostly wrong."""
    rng = np.random.default_rng(3)
    prompt = rng.integers(0, 40, 400)
    return prompt.tolist(), rng.integers(0, 40, 200).tolist()


def measure_lookup(runtime: Runtime, task: Callable[[], tuple[list[int], list[int]]]) -> dict[str, Any]:
    """Seconds of an answer with prompt-lookup against those without. A hook forces the tokens: only time can differ."""
    prompt, answer = task()
    params = GenerationParams(max_new_tokens=len(answer), processors=(scripted(answer, len(prompt)),))
    acceptances: list[float] = []

    def side(*, is_drafted: bool) -> Callable[[], dict[str, float]]:
        def measure() -> dict[str, float]:
            speculator = Speculator(PromptLookup()) if is_drafted else None
            loop = iter(GenerationLoop(runtime, [prompt], params, speculator=speculator))
            next(loop)
            started = time.perf_counter()
            for _ in loop:
                pass
            seconds = time.perf_counter() - started
            if speculator is not None:
                acceptances.append(speculator.acceptance)
            return {"answer_ms": 1000 * seconds}

        return measure

    rounds = interleave({"plain": side(is_drafted=False), "drafted": side(is_drafted=True)})
    return comparison(rounds, "drafted", "answer_ms") | {"acceptance": Spread.of(acceptances).to_dict()}


def measure_trained_lookup(model: Model) -> dict[str, Any]:
    """The trained checkpoint's own greedy text after held-out programs; tokens are compared, not forced."""
    prompts = [file.text[:600] for file in load_corpus("held-out")][:12]
    texts: dict[str, set[tuple[tuple[int, ...], ...]]] = {}

    def side(draft: Literal["prompt-lookup"] | None) -> Callable[[], dict[str, float]]:
        def measure() -> dict[str, float]:
            completions = [model.generate(prompt, max_new_tokens=100, draft=draft) for prompt in prompts]
            texts.setdefault(str(draft), set()).add(tuple(each.token_ids for each in completions))
            return {"decode_ms": sum(each.decode_ms for each in completions)}

        return measure

    rounds = interleave({"plain": side(None), "drafted": side("prompt-lookup")})
    plain, drafted = (sorted(texts[name]) for name in ("None", "prompt-lookup"))
    differing = sum(one != other for one, other in zip(plain[0], drafted[0], strict=True))
    return comparison(rounds, "drafted", "decode_ms") | {"texts": len(prompts), "texts_that_differ": differing}


def measure_session(model: Model) -> dict[str, Any]:
    """The first token of a turn behind 1,500 cached tokens, against reading all of them."""
    rng = np.random.default_rng(4)
    text, turn = (model.tokenizer.decode(rng.integers(300, 1000, n).tolist()) for n in (SESSION_TOKENS, TURN_TOKENS))
    shares: list[float] = []
    for _ in range(ROUNDS):
        session = model.session()
        session.append(text)
        fresh_ms = session.generate(max_new_tokens=1).prefill_ms
        session.append(turn)
        shares.append(session.generate(max_new_tokens=1).prefill_ms / fresh_ms)
    return {"cached_tokens": session.num_tokens, "share": Spread.of(shares).to_dict(4)}


def measure_scheme(model: Model) -> dict[str, Any]:
    """All figures of the 350M shape."""
    runtime = model.runtime
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "overhead": lambda: measure_overhead(runtime),
        "batch_of_8": lambda: measure_batch(runtime),
        "lookup_edit": lambda: measure_lookup(runtime, edit_task),
        "lookup_fresh": lambda: measure_lookup(runtime, fresh_task),
        "session": lambda: measure_session(model),
    }
    measured = {}
    for part, measure in parts.items():
        measured[part] = measure()
        click.echo(f"{model.bundle.manifest.precision}, {part}: {measured[part]}")
    return measured


@click.command()
@click.argument("schemes", type=click.Choice(SCHEMES), nargs=-1)
def main(schemes: tuple[str, ...]) -> None:
    """Write benchmarks/results/generation.json: both schemes, or only the given ones."""
    result: dict[str, Any] = {"machine": describe_machine()}
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent.parent, prefix=".demo-") as name:
        folder = Path(name)
        trained = export_checkpoint(locate_checkpoint("codegen-5M-mono"), folder / "trained")
        with load_model(trained.path) as small:
            result["lookup_trained"] = measure_trained_lookup(small)
            click.echo(f"lookup_trained: {result['lookup_trained']}")
        write_random_checkpoint(folder / "checkpoint", SHAPES["350M"], texts=TEXTS)
        float_bundle = export_checkpoint(locate_checkpoint(str(folder / "checkpoint")), folder / "fp32")
        for scheme in schemes or SCHEMES:
            bundle, _ = quantize_bundle(float_bundle, folder / scheme, QuantizeOptions(scheme=scheme))
            with load_model(bundle.path, check="size") as model:
                result[scheme] = measure_scheme(model)
            RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
