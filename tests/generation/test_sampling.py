from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from codegen_edge.errors import NumericsError
from codegen_edge.generation import GenerationParams
from codegen_edge.generation.sampling import TokenChooser, next_token_probabilities

VOCAB_SIZE = 200


def random_logits(seed: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return (3 * np.random.default_rng(seed).normal(size=VOCAB_SIZE)).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.2, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [0, 1, 7, VOCAB_SIZE, 10**6])
@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.5, 0.01])
def test_distribution_equals_that_of_transformers(temperature: float, top_k: int, top_p: float) -> None:
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    params = GenerationParams(temperature=temperature, top_k=top_k, top_p=top_p)
    for seed in range(5):
        logits = random_logits(seed)
        expected = warpers(torch.zeros(1, 1, dtype=torch.long), torch.from_numpy(logits)[None]).softmax(-1)[0]
        actual = next_token_probabilities(logits, params)
        assert np.abs(actual - expected.numpy()).max() < 1e-5
        # Below that no draw ever comes: what is lost in the rounding of the sum is not looked at.
        assert np.array_equal(actual > 1e-20, expected.numpy() > 1e-20)


def test_equally_likely_tokens_are_kept_as_transformers_keeps_them() -> None:
    logits = np.round(random_logits(1) / 3).astype(np.float32)
    for top_p in (0.1, 0.5, 0.9):
        expected = TopPLogitsWarper(top_p)(torch.zeros(1, 1, dtype=torch.long), torch.from_numpy(logits)[None])
        actual = next_token_probabilities(logits, GenerationParams(temperature=1.0, top_p=top_p))
        kept = expected[0].isfinite().numpy()
        assert kept.sum() == (actual > 0).sum()


def test_draws_follow_the_distribution() -> None:
    params = GenerationParams(temperature=1.0, top_k=6, seed=3)
    logits, draws = random_logits(0), 20_000
    chooser = TokenChooser(params, VOCAB_SIZE)
    counts = np.bincount([chooser.choose(logits, range(step)).token_id for step in range(draws)], minlength=VOCAB_SIZE)
    expected = draws * next_token_probabilities(logits, params)
    kept = expected > 0
    assert counts[~kept].sum() == 0
    chi_square = float(((counts - expected)[kept] ** 2 / expected[kept]).sum())
    assert chi_square < 20.5  # 5 degrees of freedom, p = 0.001


def test_same_seed_gives_the_same_tokens_and_another_seed_others() -> None:
    def draw(seed: int) -> list[int]:
        chooser = TokenChooser(GenerationParams(temperature=1.0, seed=seed), VOCAB_SIZE)
        return [chooser.choose(random_logits(step), range(step)).token_id for step in range(30)]

    assert draw(7) == draw(7)
    assert draw(7) != draw(8)


def test_greedy_takes_the_first_of_the_likeliest() -> None:
    logits = np.array([0, 5, 1, 5], np.float32)
    assert TokenChooser(GenerationParams(), 4).choose(logits).token_id == 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_ids_beyond_the_allowed_ones_are_never_chosen(temperature: float) -> None:
    logits = np.array([0, 1, 9, 9], np.float32)
    chooser = TokenChooser(GenerationParams(temperature=temperature, seed=0), 2)
    assert {chooser.choose(logits, range(step)).token_id for step in range(50)} <= {0, 1}


@pytest.mark.parametrize("temperature", [1e-320, 1e-30, 1e30])
def test_extreme_temperature_gives_no_nan(temperature: float) -> None:
    probabilities = next_token_probabilities(random_logits(0), GenerationParams(temperature=temperature))
    assert probabilities.sum() == pytest.approx(1)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    "logits", [[np.nan] * 3, [1, np.nan, 3], [1, np.inf, 3], [-np.inf] * 3, [np.nan, np.inf, -np.inf]]
)
def test_logits_that_are_not_finite_are_an_error_that_names_the_step(temperature: float, logits: list[float]) -> None:
    chooser = TokenChooser(GenerationParams(temperature=temperature, seed=0), 3)
    with pytest.raises(NumericsError, match="step 12"):
        chooser.choose(np.array(logits, np.float32), range(12))


def test_single_minus_infinity_is_allowed() -> None:
    chooser = TokenChooser(GenerationParams(temperature=1.0, seed=0), 3)
    assert {chooser.choose(np.array([-np.inf, 1, 1], np.float32), range(step)).token_id for step in range(30)} == {1, 2}
