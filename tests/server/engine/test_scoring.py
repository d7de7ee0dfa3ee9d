"""Log probabilities of a prompt's own tokens, beside jobs that generate and before the prompt's own choices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from codegen_edge.errors import NumericsError
from codegen_edge.server.engine import Scored
from codegen_edge.server.engine.scoring import PromptScorer, likeliest
from tests.server.engine.fakes import (
    KINDS,
    NUM_IDS,
    alone,
    broken_after_seven,
    greedy,
    hash_script,
    running,
    runtime_of,
    sampled,
)

TOLERANCE = 1e-5  # float32 log probabilities against float64 ones


def log_softmax(sequence: tuple[int, ...]) -> Any:
    """[V] float64, of the script after a sequence."""
    logits = hash_script(sequence).astype(np.float64)
    return logits - np.log(np.exp(logits).sum())


def prompt_of(length: int) -> list[int]:
    return [1 + place * place % 7 for place in range(length)]


def check_scores(scores: Any, prompt: list[int], num_top: int) -> None:
    assert len(scores.logprobs) == len(scores.top_logprobs) == len(prompt) - 1
    for place, (logprob, top) in enumerate(zip(scores.logprobs, scores.top_logprobs, strict=True), 1):
        expected = log_softmax(tuple(prompt[:place]))
        difference = abs(logprob - expected[prompt[place]])
        assert difference < TOLERANCE, f"token {place} differs by {difference}"
        ids = np.argsort(-expected[:NUM_IDS], kind="stable")[:num_top]
        assert [token_id for token_id, _ in top] == ids.tolist()
        assert np.abs(np.array([value for _, value in top]) - expected[ids]).max(initial=0) < TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 2, 33, 100])
@pytest.mark.parametrize("num_top", [0, 3])
def test_prompt_is_scored_at_every_position(kind: Any, length: int, num_top: int) -> None:
    prompt = prompt_of(length)
    with running(2, kind) as rig:
        other = rig.submit([9], params=greedy(20))
        ticket = rig.submit(prompt, prompt_logprobs=num_top, is_score_only=True)
        assert rig.inbox.reasons(ticket) == ["scored"]
        check_scores(rig.inbox.scored(ticket)[0], prompt, num_top)
        assert rig.inbox.pieces(ticket) == {}
        assert ticket.num_generated == 0
        rig.check(other)
        rig.check_is_empty()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 2, 33, 100])
def test_generation_after_scoring_equals_generation_without_it(kind: Any, length: int) -> None:
    prompts = [prompt_of(length), [5, 6], [7]]
    with running(4, kind, prefix_bytes=1000) as rig:
        ticket = rig.submit(*prompts, params=sampled(6, n=3), prompt_logprobs=2)
        rig.check(ticket)
        for number, scores in rig.inbox.scored(ticket).items():
            check_scores(scores, prompts[number], 2)
        events = rig.inbox.events(ticket)
        first = {choice: events.index(piece) for piece in events if (choice := getattr(piece, "choice", None)) == 0}
        assert isinstance(events[1], Scored)
        assert first[0] > 1
        rig.check_is_empty()


def test_prompt_that_was_scored_is_not_read_again() -> None:
    with running(1) as rig:
        ticket = rig.submit(prompt_of(100), params=greedy(1), prompt_logprobs=0)
        rig.check(ticket)
        assert rig.runtime.steps == [(1, 32), (1, 32), (1, 32), (1, 3), (1, 1)]


def test_job_that_is_only_scored_gives_the_scores_of_all_its_prompts() -> None:
    prompts = [prompt_of(40), [3], prompt_of(5)]
    with running(1) as rig:
        ticket = rig.submit(*prompts, prompt_logprobs=1, is_score_only=True)
        assert rig.inbox.reasons(ticket) == ["scored"] * 3
        for number, scores in rig.inbox.scored(ticket).items():
            check_scores(scores, prompts[number], 1)
        assert len(rig.inbox.scored(ticket)) == 3
        rig.check_is_empty()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_score_only", [False, True])
def test_prompt_whose_logits_are_not_finite_ends_its_job_and_no_other(kind: Any, is_score_only: bool) -> None:
    with running(3, kind, broken_after_seven) as rig:
        rig.gate.hold()
        other = rig.submit([5], params=greedy(12))
        ticket = rig.submit([3], [7] * 40, [4] * 40, params=greedy(60), prompt_logprobs=0, is_score_only=is_score_only)
        rig.gate.wait()
        rig.gate.open()
        reasons = rig.inbox.reasons(ticket)
        expected = ["scored"] * is_score_only + [NumericsError] * (2 if is_score_only else 3)
        assert [reason if isinstance(reason, str) else type(reason) for reason in reasons] == expected
        rig.check(other, rig.submit([6]))
        rig.check_is_empty()
        assert rig.inbox.reasons(ticket) == reasons


def test_likeliest_ids_come_in_order_and_the_lower_one_first_where_they_are_equal() -> None:
    logprobs = np.array([-3.0, -1.0, -2.0, -1.0], np.float32)
    assert likeliest(logprobs, 3) == ((1, -1.0), (3, -1.0), (2, -2.0))
    assert likeliest(logprobs, 9) == ((1, -1.0), (3, -1.0), (2, -2.0), (0, -3.0))
    assert likeliest(logprobs, 0) == ()


@pytest.mark.parametrize("slice_tokens", [1, 7, 500])
def test_scores_do_not_depend_on_the_slices(slice_tokens: int) -> None:
    prompt = prompt_of(40)
    scorer = PromptScorer(runtime_of(), tuple(prompt), 2, NUM_IDS)
    while not scorer.is_done:
        scorer.read(slice_tokens)
    scorer.read(slice_tokens)
    check_scores(scorer.scores(), prompt, 2)
    assert scorer.cache.lengths.tolist() == [39]


def test_logprobs_of_new_tokens_and_of_the_prompt_come_together() -> None:
    with running() as rig:
        ticket = rig.submit([3, 4, 5], params=greedy(4, top_logprobs=2), prompt_logprobs=2)
        rig.check(ticket)
        assert all(event.logprob is not None for event in alone(ticket.job)[0])
        check_scores(rig.inbox.scored(ticket)[0], [3, 4, 5], 2)
