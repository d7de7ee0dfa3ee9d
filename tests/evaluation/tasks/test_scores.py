from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.tasks.scores import (
    compare,
    mcnemar,
    mean_pass_at_k,
    mean_score,
    pass_at_k,
    standard_error,
    tally,
)

counts = st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))


@given(counts)
def test_pass_at_k_is_one_less_the_share_of_draws_without_a_right_sample(given: tuple[int, int, int]) -> None:
    n, c, k = given
    assert pass_at_k(n, c, k) == pytest.approx(1 - math.comb(n - c, k) / math.comb(n, k), abs=1e-12)


def test_pass_at_1_is_the_share_of_right_samples() -> None:
    assert [pass_at_k(4, c, 1) for c in range(5)] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert pass_at_k(3, 1, 3) == 1
    assert pass_at_k(200, 0, 100) == 0


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ((5, 1, 6), "pass@6 needs a k in 1…5"),
        ((5, 1, 0), "pass@0 needs a k in 1…5"),
        ((5, 6, 1), "num_correct must be in 0…5"),
        ((5, -1, 1), "num_correct must be in 0…5"),
        ((5, math.nan, 1), "num_correct must be a whole number, got nan"),
        ((math.nan, 0, 1), "num_samples must be a whole number"),
        ((5, 1, 1.0), "k must be a whole number"),
        ((5, True, 1), "num_correct must be a whole number"),
        ((0, 0, 1), "pass@1 needs"),
    ],
)
def test_a_number_out_of_range_is_refused(given: tuple[Any, Any, Any], problem: str) -> None:
    with pytest.raises(InvalidInputError, match=problem):
        pass_at_k(*given)


def test_mean_is_over_problems_and_its_interval_holds_it() -> None:
    score = mean_pass_at_k([(10, 0), (10, 10), (4, 1), (20, 10)], 1)
    assert score.value == pytest.approx((0 + 1 + 0.25 + 0.5) / 4)
    assert score.num_problems == 4
    assert score.interval is not None
    assert 0 <= score.interval[0] < score.value < score.interval[1] <= 1
    assert score == mean_pass_at_k([(10, 0), (10, 10), (4, 1), (20, 10)], 1)
    assert mean_pass_at_k([(10, 5)], 1).interval is None
    assert mean_score([0.5] * 9).interval == pytest.approx((0.5, 0.5))


def test_interval_of_what_never_or_always_passes_is_that_of_the_binomial_distribution() -> None:
    never, always = mean_pass_at_k([(1, 0)] * 164, 1), mean_pass_at_k([(1, 1)] * 164, 1)
    assert never.interval == pytest.approx((0, 0.02224), abs=1e-5)
    assert always.interval == pytest.approx((0.97776, 1), abs=1e-5)
    assert mean_pass_at_k([(1, 0)], 1).interval is None


def test_interval_is_as_wide_as_the_standard_error_says() -> None:
    score = mean_score([1.0] * 54 + [0.0] * 46)
    assert score.interval is not None
    assert standard_error(54, 100) == pytest.approx(0.04984, abs=1e-5)
    assert (score.interval[1] - score.interval[0]) / 2 == pytest.approx(1.96 * standard_error(54, 100), rel=0.1)


def test_a_score_of_nothing_is_refused() -> None:
    for values in ([], [0.5, math.nan], [math.inf]):
        with pytest.raises(InvalidInputError):
            mean_score(values)
    with pytest.raises(InvalidInputError, match="no sample"):
        standard_error(0, 0)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_twice_the_tail_of_a_fair_coin(first: int, second: int) -> None:
    count, fewest = first + second, min(first, second)
    tail = sum(math.comb(count, each) for each in range(fewest + 1)) / 2**count
    assert mcnemar(first, second) == mcnemar(second, first) == pytest.approx(min(1, 2 * tail))


def test_mcnemar_by_known_values() -> None:
    assert mcnemar(0, 0) == 1
    assert mcnemar(0, 5) == 0.0625
    assert mcnemar(2, 10) == pytest.approx(0.03857421875)
    assert 0 < mcnemar(15_000, 16_000) < 1e-7  # numbers far beyond a float's
    with pytest.raises(InvalidInputError, match="must not be negative"):
        mcnemar(-1, 2)


def test_bundles_are_compared_sample_by_sample() -> None:
    first = {(f"p{problem}", sample): problem % 2 == 0 for problem in range(10) for sample in range(2)}
    second = first | {("p0", 0): False, ("p1", 0): True, ("p1", 1): True, ("p3", 1): True}
    result = compare(first, second)
    assert (result.only_first, result.only_second) == (1, 3)
    assert result.p_value == mcnemar(1, 3) == 0.625
    assert result.difference.value == pytest.approx((-0.5 + 1 + 0.5) / 10)
    assert result.difference.interval is not None
    assert result.difference.interval[0] < 0 < result.difference.interval[1]
    assert compare(first, first).difference.interval == (0, 0)
    assert tally(second)["p1"] == (2, 2)


def test_a_paired_difference_is_surer_than_the_scores() -> None:
    chosen = np.random.default_rng(0)
    first = {(f"p{problem}", 0): bool(chosen.random() < 0.5) for problem in range(100)}
    second = first | {("p3", 0): not first["p3", 0]}
    difference, score = compare(first, second).difference, mean_score([float(each) for each in first.values()])
    assert difference.interval is not None
    assert score.interval is not None
    assert difference.interval[1] - difference.interval[0] < 0.3 * (score.interval[1] - score.interval[0])


def test_only_the_same_samples_are_compared() -> None:
    with pytest.raises(
        InvalidInputError, match=r"b \(sample 1\) is in one of them alone; they have 2 and 1 samples, 1"
    ):
        compare({("a", 0): True, ("b", 1): True}, {("a", 0): True})
    with pytest.raises(InvalidInputError, match="no problem"):
        compare({}, {})
