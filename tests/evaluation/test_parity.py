from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.parity.compare import Comparison, compare_positions, compare_runtimes, kl_divergence
from codegen_edge.evaluation.parity.tolerances import TOLERANCES, Tolerance
from codegen_edge.runtimes import KVCache, Logits, TokenIds
from codegen_edge.runtimes.backends.scripted import ScriptedRuntime

VOCAB_SIZE = 16
PROMPTS = ([1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11, 12])
EXACT = Tolerance(relative=1e-3, reason="for tests")


def hash_script(sequence: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(list(sequence)).normal(size=VOCAB_SIZE).astype(np.float32)


def scripted() -> ScriptedRuntime:
    return ScriptedRuntime(hash_script, vocab_size=VOCAB_SIZE, context_length=64)


class Faulty(ScriptedRuntime):
    """Adds an error to the logits of some steps."""

    def __init__(self, *, only: str) -> None:
        super().__init__(hash_script, vocab_size=VOCAB_SIZE, context_length=64)
        self.only = only

    def step(
        self,
        token_ids: TokenIds,
        cache: KVCache,
        *,
        counts: NDArray[np.int64] | None = None,
        all_logits: bool = False,
    ) -> Logits:
        has_past, batch_size = cache.lengths.any(), len(token_ids)
        logits = super().step(token_ids, cache, counts=counts, all_logits=all_logits)
        kind = {
            "prefill": not has_past and batch_size == 1,
            "cached steps": has_past and token_ids.shape == (1, 1),
            "prefill in chunks of 5": has_past and batch_size == 1 and token_ids.shape[1] > 1,
            "padded batch, prefill": not has_past and batch_size > 1,
            "padded batch, cached steps": has_past and batch_size > 1,
        }[self.only]
        if kind:
            logits[..., 3] += 0.01
        return logits


def test_runtime_equals_itself_in_every_scenario() -> None:
    report = compare_runtimes(scripted(), scripted(), PROMPTS, tolerance=EXACT, num_steps=6)
    assert report.is_equal
    assert report.max_abs_error == 0
    assert {c.scenario: c.positions for c in report.comparisons} == {
        "prefill": 12,
        "cached steps": 21,
        "prefill in chunks of 5": 30,
        "padded batch, prefill": 12,
        "padded batch, cached steps": 18,
    }


@pytest.mark.parametrize(
    "only",
    [
        "prefill",
        "cached steps",
        "prefill in chunks of 5",
        "padded batch, prefill",
        "padded batch, cached steps",
    ],
)
def test_fault_in_one_way_of_feeding_is_found_there(only: str) -> None:
    report = compare_runtimes(Faulty(only=only), scripted(), PROMPTS, tolerance=EXACT, num_steps=6)
    assert not report.is_equal
    failed = {comparison.scenario for comparison in report.comparisons if not comparison.is_equal}
    assert only in failed
    assert report.max_abs_error == pytest.approx(0.01, rel=1e-3)
    assert report.to_dict()["verdict"] == "different"


def compare(expected: list[float], actual: list[float], relative: float = 0.1) -> Comparison:
    pair = (np.array(expected, np.float32), np.array(actual, np.float32))
    return compare_positions("here", iter([("step 0", *pair)]), Tolerance(relative=relative, reason="test"))


def test_other_token_at_a_near_tie_is_no_failure() -> None:
    comparison = compare([1.0, 1.05], [1.06, 1.04])
    assert comparison.is_equal
    assert (comparison.near_ties, comparison.wrong_tokens, comparison.top1_agreement) == (1, 0, 0)


def test_other_token_beyond_the_margin_is_a_failure_that_names_the_place() -> None:
    comparison = compare([1.0, 1.15], [1.09, 1.08])
    assert not comparison.is_equal
    assert comparison.wrong_tokens == 1
    assert comparison.first_failure is not None
    assert "step 0" in comparison.first_failure
    assert "token 0 instead of 1" in comparison.first_failure


def test_error_beyond_the_limit_is_a_failure_even_where_tokens_agree() -> None:
    assert not compare([1.0, 5.0], [1.5, 5.0]).is_equal


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_value_that_is_not_finite_is_a_failure(value: float) -> None:
    assert not compare([1.0, 5.0], [value, 5.0]).is_equal


def test_limit_grows_with_the_spread_but_not_below_one() -> None:
    tolerance = TOLERANCES["fp32"]
    narrow = np.zeros(100, np.float32)
    wide = np.array([-10, 10] * 50, np.float32)
    assert tolerance.limit(narrow) == pytest.approx(2e-4)
    assert tolerance.limit(wide) == pytest.approx(2e-3)


def test_divergence_equals_that_of_torch() -> None:
    first, second = (np.random.default_rng(seed).normal(size=50).astype(np.float32) for seed in (1, 2))
    expected = torch.nn.functional.kl_div(
        torch.from_numpy(second).double().log_softmax(0),
        torch.from_numpy(first).double().log_softmax(0),
        log_target=True,
        reduction="sum",
    )
    assert kl_divergence(first, second) == pytest.approx(float(expected))


@pytest.mark.parametrize("prompts", [[], [[]], [[1], []], [[1] * 64]])
def test_prompts_that_cannot_be_compared_are_refused(prompts: list[list[int]]) -> None:
    with pytest.raises(InvalidInputError):
        compare_runtimes(scripted(), scripted(), prompts, tolerance=EXACT)


def test_steps_end_where_the_context_ends() -> None:
    report = compare_runtimes(scripted(), scripted(), [[1] * 60], tolerance=EXACT, num_steps=16)
    assert report.num_steps == 4


def test_steps_below_one_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="steps"):
        compare_runtimes(scripted(), scripted(), PROMPTS, tolerance=EXACT, num_steps=0)
