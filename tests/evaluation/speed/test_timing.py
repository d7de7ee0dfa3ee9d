from __future__ import annotations

import pytest

from codegen_edge.evaluation.speed.timing import Rounds, Spread, interleave, percentile


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert [percentile(values, share) for share in (0.5, 0.9, 0.99, 1.0)] == [50, 90, 99, 100]
    assert percentile([7.0], 0.5) == 7
    assert percentile([1.0, 2.0, 3.0], 0.5) == 2
    assert percentile([1.0, 2.0, 3.0], 0.99) == 3


def test_without_a_second_measurement_of_the_first_there_is_no_noise_bound() -> None:
    order: list[str] = []

    def measure() -> dict[str, float]:
        order.append("a")
        return {"step_s": 1.0}

    rounds = interleave({"a": measure}, rounds=3, is_first_doubled=False)
    assert order == ["a"] * 3
    assert rounds.again == {}


def test_a_ratio_may_be_over_any_side_and_is_of_one_round() -> None:
    rounds = Rounds({"a": {"s": [1.0, 2.0]}, "b": {"s": [2.0, 8.0]}, "c": {"s": [4.0, 4.0]}}, {"s": [1.0, 2.0]})
    assert rounds.ratio("b", "s", base="c") == Spread(1.25, 0.5, 2.0)
    assert rounds.ratio("b", "s") == Spread(0.375, 0.25, 0.5)


def test_one_round_has_no_range() -> None:
    with pytest.raises(AssertionError, match="no range"):
        interleave({"a": lambda: {"s": 1.0}}, rounds=1)
