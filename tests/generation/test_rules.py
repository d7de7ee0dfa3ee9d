"""Every rule against its twin in transformers, on random logits; the rest by its definition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import (
    ForcedEOSTokenLogitsProcessor,
    LogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from codegen_edge.errors import InvalidInputError, NumericsError
from codegen_edge.generation import GenerationParams
from codegen_edge.generation.params import check_ids
from codegen_edge.generation.rules import ScoreRules
from codegen_edge.generation.sampling import TokenChooser, log_softmax, next_token_probabilities

VOCAB_SIZE, PROMPT_LENGTH, EOS = 120, 4, 0


def random_logits(seed: int) -> NDArray[np.float32]:
    return (3 * np.random.default_rng(seed).normal(size=VOCAB_SIZE)).astype(np.float32)


def random_ids(seed: int, length: int) -> list[int]:
    """Few different ones, so that runs of them occur again."""
    ids: list[int] = np.random.default_rng(seed).integers(0, 6, length).tolist()
    return ids


def twin(processors: Sequence[LogitsProcessor], ids: Sequence[int], logits: NDArray[np.float32]) -> NDArray[np.float32]:
    result = LogitsProcessorList(processors)(torch.tensor([list(ids)]), torch.from_numpy(logits.copy())[None])
    return np.asarray(result[0].numpy(), np.float32)


TWINS: dict[str, tuple[dict[str, Any], LogitsProcessor]] = {
    "repetition": ({"repetition_penalty": 1.3}, RepetitionPenaltyLogitsProcessor(1.3)),
    "repetition below 1": ({"repetition_penalty": 0.7}, RepetitionPenaltyLogitsProcessor(0.7)),
    "no repeat 1": ({"no_repeat_ngram_size": 1}, NoRepeatNGramLogitsProcessor(1)),
    "no repeat 2": ({"no_repeat_ngram_size": 2}, NoRepeatNGramLogitsProcessor(2)),
    "no repeat 3": ({"no_repeat_ngram_size": 3}, NoRepeatNGramLogitsProcessor(3)),
    "bad words": (
        {"bad_words_ids": ((7,), (1, 2), (3, 3, 5))},
        NoBadWordsLogitsProcessor([[7], [1, 2], [3, 3, 5]], eos_token_id=EOS),
    ),
    "bad words, one of them the end of text": (
        {"bad_words_ids": ((EOS,), (4,), (2, EOS))},
        NoBadWordsLogitsProcessor([[EOS], [4], [2, EOS]], eos_token_id=EOS),
    ),
    "bias": ({"logit_bias": {3: 2.5, 99: -4.0}}, SequenceBiasLogitsProcessor({(3,): 2.5, (99,): -4.0})),
    "suppressed": ({"suppressed_ids": (1, 50, 119)}, SuppressTokensLogitsProcessor([1, 50, 119])),
    "min new": (
        {"min_new_tokens": 5},
        MinNewTokensLengthLogitsProcessor(PROMPT_LENGTH, 5, eos_token_id=EOS, device="cpu"),
    ),
    "forced end": (
        {"forced_ids": {7: EOS}},
        ForcedEOSTokenLogitsProcessor(PROMPT_LENGTH + 8, EOS, device="cpu"),
    ),
}


@pytest.mark.parametrize("name", TWINS)
def test_rule_equals_its_twin_in_transformers(name: str) -> None:
    params, processor = TWINS[name]
    rules = ScoreRules(GenerationParams(**params), PROMPT_LENGTH, [EOS])
    changed = 0
    for seed, length in enumerate((4, 5, 6, 8, 9, 11, 12, 30, 60)):
        ids, logits = random_ids(seed, length), random_logits(seed)
        expected = twin([processor], ids, logits)
        before = logits.copy()
        np.testing.assert_array_equal(rules.apply(logits, ids), expected)
        np.testing.assert_array_equal(logits, before)
        changed += bool((expected != logits).any())
    assert changed


def test_rules_together_are_applied_in_the_order_of_transformers() -> None:
    names = ("bias", "repetition", "no repeat 2", "bad words", "min new", "suppressed")
    params: dict[str, Any] = {}
    for name in names:
        params |= TWINS[name][0]
    rules = ScoreRules(GenerationParams(**params), PROMPT_LENGTH, [EOS])
    for seed in range(20):
        ids, logits = random_ids(seed, 4 + seed), random_logits(seed)
        expected = twin([TWINS[name][1] for name in names], ids, logits)
        np.testing.assert_array_equal(rules.apply(logits, ids), expected)


WARPERS: dict[str, tuple[dict[str, Any], list[LogitsProcessor]]] = {
    "min-p": ({"min_p": 0.1}, [MinPLogitsWarper(0.1)]),
    "typical": ({"typical_p": 0.7}, [TypicalLogitsWarper(0.7)]),
    "typical, little": ({"typical_p": 0.01}, [TypicalLogitsWarper(0.01)]),
    "all": (
        {"top_k": 40, "top_p": 0.95, "min_p": 0.02, "typical_p": 0.9},
        [TopKLogitsWarper(40), TopPLogitsWarper(0.95), MinPLogitsWarper(0.02), TypicalLogitsWarper(0.9)],
    ),
}


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("name", WARPERS)
def test_distribution_equals_that_of_transformers(name: str, temperature: float) -> None:
    params, warpers = WARPERS[name]
    for seed in range(20):
        logits = random_logits(seed)
        expected = torch.from_numpy(twin([TemperatureLogitsWarper(temperature), *warpers], [1], logits)).softmax(-1)
        actual = next_token_probabilities(logits, GenerationParams(temperature=temperature, **params))
        assert np.abs(actual - expected.numpy()).max() < 1e-5
        assert np.array_equal(actual > 0, expected.numpy() > 0)


@pytest.mark.parametrize("top_p", [0.2, 0.9, 0.999999])
def test_top_p_of_a_large_vocabulary_looks_at_rare_ids_where_it_must(top_p: float) -> None:
    """Flat and sharp distributions over 51,200 ids: the shortcut keeps what a full sort keeps."""
    for scale in (0.01, 1.0, 6.0):
        logits = (scale * np.random.default_rng(3).normal(size=51_200)).astype(np.float32)
        kept = next_token_probabilities(logits, GenerationParams(temperature=1.0, top_p=top_p)) > 0
        probabilities = np.exp(logits.astype(np.float64) - logits.max())
        probabilities /= probabilities.sum()
        ordered = np.sort(probabilities)[::-1]
        count = int((ordered.cumsum() < top_p).sum()) + 1
        assert abs(int(kept.sum()) - count) <= 1
        assert probabilities[kept].min() >= probabilities[~kept].max(initial=0)


def test_presence_and_frequency_count_generated_ids_only() -> None:
    rules = ScoreRules(GenerationParams(presence_penalty=0.5, frequency_penalty=0.25), PROMPT_LENGTH, [EOS])
    logits = random_logits(0)
    ids = [9, 9, 9, 9, 5, 5, 7]
    changed = logits - rules.apply(logits, ids)
    np.testing.assert_allclose(changed[[5, 7, 9]], [1.0, 0.75, 0.0], atol=1e-6)
    assert np.count_nonzero(changed) == 2


def test_forced_id_is_chosen_whatever_the_logits() -> None:
    chooser = TokenChooser(GenerationParams(forced_ids={0: 17, 2: 3}), VOCAB_SIZE)
    assert [chooser.choose(random_logits(step), range(step)).token_id for step in (0, 2)] == [17, 3]


def test_hook_is_called_in_turn_with_the_ids_and_before_temperature() -> None:
    seen: list[tuple[int, ...]] = []

    def only_seven(ids: Sequence[int], scores: NDArray[np.float32]) -> NDArray[np.float32]:
        seen.append(tuple(ids))
        result = np.full_like(scores, -np.inf)
        result[7] = scores[7]
        return result

    for temperature in (0.0, 1.0):
        params = GenerationParams(processors=(only_seven,), temperature=temperature)
        assert TokenChooser(params, VOCAB_SIZE, prompt_length=2).choose(random_logits(0), (4, 5, 6)).token_id == 7
    assert seen == [(4, 5, 6)] * 2


@pytest.mark.parametrize(
    ("hook", "error", "message"),
    [
        (lambda _, scores: scores[:-1], InvalidInputError, r"processors\[0\] must return float32"),
        (lambda _, scores: scores.astype(np.float64), InvalidInputError, r"it returned float64"),
        (lambda _, scores: None, InvalidInputError, r"it returned NoneType"),
        (lambda _, scores: scores * np.float32("nan"), NumericsError, r"processors\[0\] returned NaN"),
        (lambda _, scores: scores + np.float32("inf"), NumericsError, r"processors\[0\] returned NaN or infinity"),
        (lambda _, scores: scores - np.float32("inf"), InvalidInputError, "forbid every id at step 3"),
    ],
)
def test_hook_that_returns_something_else_is_named(hook: Any, error: type[Exception], message: str) -> None:
    chooser = TokenChooser(GenerationParams(processors=(hook,)), VOCAB_SIZE)
    with pytest.raises(error, match=message):
        chooser.choose(random_logits(0), (1, 2, 3))


def test_rules_that_forbid_every_id_are_an_error() -> None:
    chooser = TokenChooser(GenerationParams(suppressed_ids=range_tuple(VOCAB_SIZE)), VOCAB_SIZE)
    with pytest.raises(InvalidInputError, match="the rules forbid every id at step 0"):
        chooser.choose(random_logits(0))


def range_tuple(stop: int) -> tuple[int, ...]:
    return tuple(range(stop))


def test_logprobs_are_those_of_the_model_before_any_rule() -> None:
    logits = random_logits(5)
    expected = torch.from_numpy(logits).log_softmax(-1).numpy()
    params = GenerationParams(temperature=0.1, logit_bias={3: 100.0}, top_logprobs=4)
    chosen = TokenChooser(params, VOCAB_SIZE).choose(logits)
    assert chosen.token_id == 3
    assert chosen.logprob == pytest.approx(expected[3], abs=1e-5)
    assert [token_id for token_id, _ in chosen.top_logprobs] == np.argsort(-expected)[:4].tolist()
    np.testing.assert_allclose(log_softmax(logits), expected, atol=1e-5)


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=40),
    st.integers(1, 5),
)
def test_no_run_of_ids_ever_comes_twice(ids: list[int], size: int) -> None:
    rules = ScoreRules(GenerationParams(no_repeat_ngram_size=size), 0, [EOS])
    banned = np.flatnonzero(np.isinf(rules.apply(np.zeros(6, np.float32), ids)))
    runs = {tuple(ids[start : start + size]) for start in range(len(ids) - size + 1)}
    end = tuple(ids[len(ids) - size + 1 :])
    assert set(banned.tolist()) == {each for each in range(6) if (*end, each) in runs and len(end) == size - 1}


@pytest.mark.parametrize(
    "params",
    [
        {"stop_ids": (120,)},
        {"suppressed_ids": (5, 500)},
        {"logit_bias": {120: 1.0}},
        {"forced_ids": {0: 1000}},
        {"bad_words_ids": ((1, 130),)},
    ],
)
def test_unknown_id_names_its_parameter(params: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=f"{next(iter(params))} holds id .* outside the vocabulary of 120"):
        check_ids(GenerationParams(**params), VOCAB_SIZE)
