"""Log-likelihoods of continuations are transformers', however they are batched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from codegen_edge.bundle import Bundle
from codegen_edge.errors import ContextLengthError, InvalidInputError
from codegen_edge.evaluation.harness.scoring import Pair, Score, score_pairs
from codegen_edge.exporter import load_reference_model, open_checkpoint
from codegen_edge.runtimes import Runtime, open_runtime
from codegen_edge.runtimes.backends.scripted import ScriptedRuntime, script_of_tokens

CONTEXT = 128  # of the tiny model
PER_TOKEN = 1e-4  # the tiny model's logits are large; the trained one's are within 1e-5 (benchmarks/lm_eval.py)


def ids(generator: np.random.Generator, count: int) -> tuple[int, ...]:
    return tuple(generator.integers(0, 500, count).tolist())


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    """Ragged ones, choices of one question, pairs that differ in one token, one that is too long, one of one token."""
    random = np.random.default_rng(3)
    question, again = ids(random, 40), ids(random, 21)
    return [
        *(Pair(ids(random, int(random.integers(1, 70))), ids(random, int(random.integers(1, 30)))) for _ in range(6)),
        *(Pair(question, ids(random, count)) for count in (1, 1, 1, 4, 9)),
        *(Pair(again, (7, 8, last)) for last in (1, 2, 3)),
        Pair(ids(random, 150), ids(random, 30)),
        Pair(ids(random, 1), ids(random, CONTEXT)),
        Pair(question, (7,)),
    ]


@pytest.fixture(scope="module")
def expected(tiny_checkpoint: Path, pairs: list[Pair]) -> list[Score]:
    model: Any = load_reference_model(open_checkpoint(tiny_checkpoint))
    scores = []
    for pair in pairs:
        whole = (*pair.context, *pair.continuation)[-(CONTEXT + 1) :]
        with torch.no_grad():
            logits = model(torch.tensor([whole[:-1]])).logits[0, -len(pair.continuation) :].double()
        targets = torch.tensor(pair.continuation)
        logprobs = torch.log_softmax(logits, dim=-1).gather(1, targets[:, None])
        scores.append(Score(float(logprobs.sum()), bool((logits.argmax(-1) == targets).all())))
    return scores


@pytest.fixture(scope="module")
def runtime(tiny_bundle: Bundle) -> Iterator[Runtime]:
    opened = open_runtime("cpu", tiny_bundle, threads=1)
    yield opened
    opened.close()


def scored(runtime: Runtime, pairs: list[Pair], batch_size: int) -> list[Score]:
    found = dict(each for batch in score_pairs(runtime, pairs, batch_size=batch_size) for each in batch)
    return [found[place] for place in range(len(pairs))]


@pytest.mark.parametrize("batch_size", [1, 3, 8, 64])
def test_scores_are_those_of_transformers(
    runtime: Runtime, pairs: list[Pair], expected: list[Score], batch_size: int
) -> None:
    actual = scored(runtime, pairs, batch_size)
    worst = max(
        abs(own.log_likelihood - reference.log_likelihood) / len(pair.continuation)
        for own, reference, pair in zip(actual, expected, pairs, strict=True)
    )
    assert worst <= PER_TOKEN
    assert [score.is_greedy for score in actual] == [score.is_greedy for score in expected]


def test_steps_of_few_tokens_give_the_same(
    runtime: Runtime, pairs: list[Pair], expected: list[Score], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = "codegen_edge.evaluation.harness.scoring"
    monkeypatch.setattr(f"{home}._MOST_LOGITS_BYTES", 4 * 640 * 6)
    monkeypatch.setattr(f"{home}._MOST_READ", 10)
    for own, reference in zip(scored(runtime, pairs, 4), expected, strict=True):
        assert own.log_likelihood == pytest.approx(reference.log_likelihood, abs=3e-3)


def test_exact_steps_score_alike_in_every_batch(tiny_bundle: Bundle, pairs: list[Pair]) -> None:
    runtime = open_runtime("cpu", tiny_bundle, exact_steps=True)
    for alone, batched in zip(scored(runtime, pairs, 1), scored(runtime, pairs, 4), strict=True):
        assert batched.log_likelihood == pytest.approx(alone.log_likelihood, abs=0)
    runtime.close()


def test_likeliest_tokens_are_greedy(runtime: Runtime) -> None:
    context = (5, 6, 7)
    cache = runtime.new_cache(1, 16)
    best = int(runtime.step(np.array([context], np.int64), cache)[0].argmax())
    scores = scored(runtime, [Pair(context, (best,)), Pair(context, ((best + 1) % 500,))], 2)
    assert [score.is_greedy for score in scores] == [True, False]


def test_a_context_that_choices_share_is_read_once() -> None:
    counts: list[int] = []

    class Counting(ScriptedRuntime):
        def step(self, token_ids: Any, cache: Any, **options: Any) -> Any:
            counts.append(token_ids.size)
            return super().step(token_ids, cache, **options)

    runtime = Counting(script_of_tokens([1] * 300, 16, 0), vocab_size=16, context_length=256)
    context = tuple([3] * 100)
    pairs = [Pair(context, (1,)), Pair(context, (2,)), Pair(context, (1, 2, 3)), Pair(context, (2, 2, 2, 2))]
    scored(runtime, pairs, 4)
    assert sum(counts) < 120


def test_what_cannot_be_scored_is_named(runtime: Runtime) -> None:
    with pytest.raises(InvalidInputError, match="pair 1 has an empty context"):
        scored(runtime, [Pair((1,), (2,)), Pair((), (2,))], 2)
    with pytest.raises(
        ContextLengthError, match="continuation of 129 tokens is longer than the model's context of 128"
    ):
        scored(runtime, [Pair((1,), (2,) * 129)], 2)
    assert scored(runtime, [], 2) == []
