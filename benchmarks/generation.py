"""What the generation loop costs and saves: python -m benchmarks.generation.

On the 350M shape with int8 weights, weight-only and dynamic (random: kernels do not know the difference). Every
comparison alternates between its two sides within one process; the medians are compared.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe_machine
from benchmarks.random_checkpoint import TEXTS
from codegen_edge import load_model
from codegen_edge.checkpoints.corpora import load_corpus
from codegen_edge.exporter import export_checkpoint, locate_checkpoint
from codegen_edge.exporter.random_checkpoint import SHAPES, write_random_checkpoint
from codegen_edge.model import Model
from codegen_edge.quantization import QuantizeOptions, quantize_bundle
from codegen_edge.runtimes.backends.ort_cpu import OrtCpuRuntime
from codegen_edge.runtimes.generation import GenerationLoop, GenerationParams
from codegen_edge.runtimes.generation.speculation import PromptLookup, Speculator

RESULT = Path(__file__).parent / "results" / "generation.json"
ROUNDS = 5
SCHEMES = ("int8", "int8-dynamic")
PROMPT_TOKENS, NEW_TOKENS = 128, 64
SESSION_TOKENS, TURN_TOKENS = 1500, 8


def measure_overhead(runtime: OrtCpuRuntime) -> dict[str, Any]:
    """A greedy decode step of the loop against the bare run of the session, at the same lengths of past."""
    ids = np.random.default_rng(0).integers(0, 1000, PROMPT_TOKENS).tolist()
    params = GenerationParams(max_new_tokens=NEW_TOKENS)
    loop_ms: list[float] = []
    bare_ms: list[float] = []
    for _ in range(ROUNDS + 2):
        times = []
        for _event in GenerationLoop(runtime, [ids], params):
            times.append(time.perf_counter())
        loop_ms += (1000 * np.diff(times)[4:]).tolist()

        cache = runtime.new_cache(1, PROMPT_TOKENS + NEW_TOKENS)
        runtime.step(np.array([ids]), cache)
        one = np.array([[5]])
        session, run = runtime._session, []
        for _ in range(NEW_TOKENS - 1):
            # Everything but the run itself is left out of the clock.
            run.append(1000 * _bare_run(runtime, session, cache, one))
        bare_ms += run[4:]
    loop, bare = float(np.median(loop_ms)), float(np.median(bare_ms))
    return {"loop_ms": round(loop, 3), "session_run_ms": round(bare, 3), "overhead": round(loop / bare - 1, 4)}


def _bare_run(runtime: OrtCpuRuntime, session: Any, cache: Any, token_ids: NDArray[np.int64]) -> float:
    """Seconds of `run_with_iobinding` within a step."""
    seconds = []

    class Timed:
        def run_with_iobinding(self, *arguments: Any) -> None:
            started = time.perf_counter()
            session.run_with_iobinding(*arguments)
            seconds.append(time.perf_counter() - started)

        def __getattr__(self, name: str) -> Any:
            return getattr(session, name)

    runtime._session = Timed()
    try:
        runtime.step(token_ids, cache)
    finally:
        runtime._session = session
    return seconds[0]


def measure_batch(runtime: OrtCpuRuntime) -> dict[str, Any]:
    """Tokens a second of eight rows against one."""
    prompts = np.random.default_rng(1).integers(0, 1000, (8, PROMPT_TOKENS)).tolist()
    params = GenerationParams(max_new_tokens=NEW_TOKENS)
    rates: dict[int, list[float]] = {1: [], 8: []}
    for _ in range(ROUNDS):
        for size, found in rates.items():
            loop = iter(GenerationLoop(runtime, prompts[:size], params))
            for _ in range(size):
                next(loop)
            started, count = time.perf_counter(), sum(1 for _ in loop)
            found.append(count / (time.perf_counter() - started))
    one, eight = (float(np.median(rates[size])) for size in (1, 8))
    return {"one_row": round(one, 1), "eight_rows": round(eight, 1), "ratio": round(eight / one, 2)}


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


def measure_lookup(runtime: OrtCpuRuntime, task: Callable[[], tuple[list[int], list[int]]]) -> dict[str, Any]:
    """Seconds of an answer without and with prompt-lookup."""
    prompt, answer = task()
    params = GenerationParams(max_new_tokens=len(answer), processors=(scripted(answer, len(prompt)),))
    times: dict[bool, list[float]] = {False: [], True: []}
    acceptance = 0.0
    for _ in range(ROUNDS):
        for is_drafted, found in times.items():
            speculator = Speculator(PromptLookup()) if is_drafted else None
            loop = iter(GenerationLoop(runtime, [prompt], params, speculator=speculator))
            tokens = [next(loop).token_id]
            started = time.perf_counter()
            tokens += [event.token_id for event in loop]
            found.append(time.perf_counter() - started)
            assert tokens == answer
            acceptance = speculator.acceptance if speculator else acceptance
    plain, drafted = (float(np.median(times[is_drafted])) for is_drafted in (False, True))
    return {"speedup": round(plain / drafted, 3), "acceptance": round(acceptance, 3)}


def measure_trained_lookup(model: Model) -> dict[str, Any]:
    """The trained checkpoint's own greedy text after held-out programs, which guesses may or may not meet."""
    prompts = [file.text[:600] for file in load_corpus("held-out")][:12]
    times: dict[Literal["prompt-lookup"] | None, float] = {None: 0.0, "prompt-lookup": 0.0}
    for _ in range(ROUNDS):
        for prompt in prompts:
            for draft in times:
                completion = model.generate(prompt, max_new_tokens=100, draft=draft)
                times[draft] += completion.decode_ms
    return {"speedup": round(times[None] / times["prompt-lookup"], 3)}


def measure_session(model: Model) -> dict[str, Any]:
    """The first token of a turn behind 1,500 tokens, against reading them all afresh."""
    rng = np.random.default_rng(4)
    ids = rng.integers(0, 1000, SESSION_TOKENS).tolist()
    fresh_ms: list[float] = []
    turn_ms: list[float] = []
    for _ in range(ROUNDS):
        session = model.session()
        session._ids = list(ids)
        fresh_ms.append(session.generate(max_new_tokens=1).prefill_ms)
        session._ids += rng.integers(0, 1000, TURN_TOKENS).tolist()
        turn_ms.append(session.generate(max_new_tokens=1).prefill_ms)
    fresh, turn = float(np.median(fresh_ms)), float(np.median(turn_ms))
    return {"fresh_ms": round(fresh, 1), "turn_ms": round(turn, 1), "share": round(turn / fresh, 4)}


def measure_scheme(model: Model) -> dict[str, Any]:
    """All that the 350M shape can tell."""
    runtime = model.runtime
    assert isinstance(runtime, OrtCpuRuntime)
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
def main() -> None:
    """Write benchmarks/results/generation.json."""
    result: dict[str, Any] = {"machine": describe_machine()}
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent.parent, prefix=".demo-") as name:
        folder = Path(name)
        write_random_checkpoint(folder / "checkpoint", SHAPES["350M"], texts=TEXTS)
        float_bundle = export_checkpoint(locate_checkpoint(str(folder / "checkpoint")), folder / "fp32")
        for scheme in SCHEMES:
            bundle, _ = quantize_bundle(float_bundle, folder / scheme, QuantizeOptions(scheme=scheme))
            with load_model(bundle.path, check="size") as model:
                result[scheme] = measure_scheme(model)
        trained = export_checkpoint(locate_checkpoint("codegen-5M-mono"), folder / "trained")
        with load_model(trained.path) as small:
            result["lookup_trained"] = measure_trained_lookup(small)
            click.echo(f"lookup_trained: {result['lookup_trained']}")
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
