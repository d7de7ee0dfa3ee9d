"""What constraints guarantee and cost: python -m benchmarks.grammar.

Validity and the greedy choice with the checkpoint that ships; the time of a step on the 350M shape with int8 weights
(random) and 50,257 tokens cut from programs, as nothing of a grammar's cost depends on what the model knows.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from jsonschema import Draft202012Validator
from llguidance import LLTokenizer

from benchmarks.harness import Spread, interleave
from benchmarks.machine import describe_machine
from benchmarks.random_checkpoint import TEXTS
from benchmarks.random_schemas import random_schema
from codegen_edge import load_model
from codegen_edge.checkpoints.corpora import load_corpus
from codegen_edge.errors import InvalidInputError
from codegen_edge.exporter import export_checkpoint, locate_checkpoint
from codegen_edge.exporter.random_checkpoint import SHAPES, write_random_checkpoint
from codegen_edge.generation import GenerationLoop, GenerationParams, RowOutput, RunningBatch
from codegen_edge.generation.constraints import Grammar, compile_grammar
from codegen_edge.generation.constraints.matcher import GrammarConstraint
from codegen_edge.generation.constraints.trial import Vocabulary, grammar_text, new_matcher
from codegen_edge.generation.model import Model
from codegen_edge.quantization import QuantizeOptions, quantize_bundle

RESULT = Path(__file__).parent / "results" / "grammar.json"
NUM_SCHEMAS, ROWS, NEW_TOKENS = 500, 16, 300
NUM_GREEDY_STEPS = 200
MOST_READ = 2_000_000  # bytes of programs that tokens are cut from
VOCAB_SIZE, TIMED_TOKENS, PROMPT_TOKENS = 50_257, 48, 64
PROMPT = "# an example\nvalue = "
# Never whole within the measurement: the text may not end before 10,000 items.
ENDLESS = {"type": "array", "minItems": 10_000, "items": {"type": "string", "maxLength": 20}}


def measure_validity(model: Model) -> dict[str, Any]:
    """How many texts of random schemas are valid, by why they ended."""
    random, refused = np.random.default_rng(0), Counter[str]()
    waiting: list[tuple[dict[str, Any], GrammarConstraint]] = []
    compile_ms = []
    while len(waiting) < NUM_SCHEMAS:
        schema = random_schema(random)
        started_at = time.perf_counter()
        try:
            waiting.append((schema, compile_grammar(Grammar.json_schema(schema), model.tokenizer)))
        except InvalidInputError as exc:
            refused[str(exc)] += 1
        compile_ms.append(1000 * (time.perf_counter() - started_at))
    texts = generated(model, [constraint for _, constraint in waiting])
    ended, valid = Counter[str](), Counter[str]()
    for (schema, _), (text, reason) in zip(waiting, texts, strict=True):
        ended[reason] += 1
        valid[reason] += is_valid(schema, text)
    return {
        "schemas": NUM_SCHEMAS,
        "refused": dict(refused),
        "ended": dict(ended),
        "valid": dict(valid),
        "compile_ms": Spread.of(compile_ms[1:]).to_dict(),  # the first starts the process
    }


def is_valid(schema: dict[str, Any], text: str) -> bool:
    try:
        return bool(Draft202012Validator(schema).is_valid(json.loads(text)))
    except ValueError:
        return False


def generated(model: Model, constraints: list[GrammarConstraint]) -> list[tuple[str, str]]:
    """A sampled text for each constraint, and why it ended."""
    tokenizer, config = model.tokenizer, model.runtime.config
    prompt = tokenizer.encode(PROMPT)
    batch = RunningBatch(model.runtime, num_allowed_ids=tokenizer.vocab_size, slots=ROWS)
    outputs: list[RowOutput] = []
    while len(outputs) < len(constraints) or batch.rows:
        while len(outputs) < len(constraints) and batch.free_slots:
            params = GenerationParams(
                max_new_tokens=NEW_TOKENS, temperature=0.8, seed=len(outputs), constraint=constraints[len(outputs)]
            )
            batch.add([prompt], params)
            outputs.append(RowOutput(tokenizer, params, config.eos_token_id, len(prompt)))
        for event in batch.step():
            outputs[event.row].add(event)
    return [(output.text, str(output.finish_reason)) for output in outputs]


def measure_greedy(model: Model) -> dict[str, int]:
    """Steps in which the greedy token is the likeliest of those that trying every token allows."""
    tokenizer, config = model.tokenizer, model.runtime.config
    constraint = compile_grammar(Grammar.json_schema(ENDLESS), tokenizer)
    seen: list[np.ndarray[Any, np.dtype[np.float32]]] = []

    def look(ids: Any, scores: Any) -> Any:
        seen.append(scores.copy())
        return scores

    params = GenerationParams(max_new_tokens=NUM_GREEDY_STEPS, constraint=constraint, processors=(look,))
    prompt = tokenizer.encode(PROMPT)
    events = list(GenerationLoop(model.runtime, [prompt], params, num_allowed_ids=tokenizer.vocab_size))
    matcher, equal, forced = new_matcher_of(model, ENDLESS), 0, 0
    for event, scores in zip(events, seen, strict=True):
        only = matcher.compute_ff_tokens()[:1]
        forced += bool(only)
        allowed = only or [each for each in range(tokenizer.vocab_size) if matcher.validate_tokens([each]) == 1]
        equal += event.token_id == max(allowed, key=lambda each: (scores[each], -each))
        assert event.token_id != config.eos_token_id
        assert matcher.try_consume_tokens([event.token_id]) == 1
    return {"steps": len(events), "equal": equal, "forced_by_the_grammar": forced}


def new_matcher_of(model: Model, schema: dict[str, Any]) -> Any:
    """A matcher of its own, beside the one that the loop follows."""
    tokenizer = model.tokenizer
    tokens = [tokenizer.token_bytes(each) for each in range(tokenizer.vocab_size)]
    assert tokenizer.end_of_text_id is not None
    table = LLTokenizer(Vocabulary(tokens, [tokenizer.end_of_text_id], tokenizer.encode))  # type: ignore[arg-type]
    return new_matcher(table, grammar_text("json_schema", json.dumps(schema)))


def large_vocabulary() -> list[bytes]:
    """Bytes, and the commonest pieces of programs."""
    text = "".join(file.text for file in load_corpus("calibration")).encode()[:MOST_READ]
    pieces = Counter(text[start : start + size] for size in range(2, 9) for start in range(0, len(text) - size, 3))
    return [bytes([each]) for each in range(256)] + [piece for piece, _ in pieces.most_common(VOCAB_SIZE - 256)]


def measure_step(shape: str) -> dict[str, Any]:
    """A step of one row and of eight, with a constraint and without."""
    tokens = large_vocabulary()
    vocabulary = Vocabulary(tokens, [], lambda text: list(text.encode()))
    matcher = new_matcher(LLTokenizer(vocabulary), grammar_text("json_schema", json.dumps(ENDLESS)))  # type: ignore[arg-type]
    constraint = GrammarConstraint(matcher, len(tokens))
    with tempfile.TemporaryDirectory() as folder:
        write_random_checkpoint(Path(folder) / "checkpoint", SHAPES[shape], texts=TEXTS)
        fp32 = export_checkpoint(locate_checkpoint(str(Path(folder) / "checkpoint")), Path(folder) / "fp32")
        int8 = quantize_bundle(fp32, Path(folder) / "int8", QuantizeOptions(scheme="int8"))[0]
        with load_model(int8.path, check="size") as model:
            return {f"rows_{rows}": compared(model, rows, constraint) for rows in (1, 8)}


def compared(model: Model, rows: int, constraint: GrammarConstraint) -> dict[str, Any]:
    """Steps without and with the constraint, in turns."""
    rounds = interleave({"free": step_ms(model, rows, None), "constrained": step_ms(model, rows, constraint)})
    times = {f"{side}_ms": rounds.spread(side, "step_ms").to_dict() for side in ("free", "constrained")}
    ratio = rounds.ratio("free", "step_ms", base="constrained")
    return {**times, "constrained_over_free": ratio.to_dict(), "noise": round(rounds.noise("step_ms"), 4)}


def step_ms(model: Model, rows: int, constraint: GrammarConstraint | None) -> Callable[[], dict[str, float]]:
    """Milliseconds of a decode step."""
    prompts = np.random.default_rng(1).integers(0, 500, (rows, PROMPT_TOKENS)).tolist()
    params = GenerationParams(max_new_tokens=TIMED_TOKENS, constraint=constraint)

    def measure() -> dict[str, float]:
        loop = iter(GenerationLoop(model.runtime, prompts, params, num_allowed_ids=VOCAB_SIZE))
        for _ in range(rows):
            next(loop)
        started_at, count = time.perf_counter(), sum(1 for _ in loop)
        return {"step_ms": 1000 * (time.perf_counter() - started_at) * rows / count}

    return measure


@click.command()
@click.option("--shape", default="350M", show_default=True, help="Of the model whose steps are timed.")
@click.option("--timing/--no-timing", default=True, show_default=True, help="Whether steps are timed.")
def main(shape: str, timing: bool) -> None:
    """Write benchmarks/results/grammar.json; without timing, what was timed before stays."""
    before = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        bundle = export_checkpoint(locate_checkpoint("codegen-5M-mono"), Path(folder) / "bundle")
        with load_model(bundle.path, check="size") as model:
            result = {"machine": describe_machine(), "random_schemas": measure_validity(model)}
            result["greedy"] = measure_greedy(model)
    if timing:
        result["step"] = {"shape": shape, **measure_step(shape)}
    elif "step" in before:
        result["step"] = before["step"]
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    click.echo(json.dumps({name: value for name, value in result.items() if name != "machine"}, indent=2))


if __name__ == "__main__":
    main()
