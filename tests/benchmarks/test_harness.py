from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.harness import Spread, comparison, interleave, is_difference, shown_ratio
from benchmarks.machine import describe_machine
from benchmarks.release_check import tour


def drifting(order: list[str], name: str, factor: float) -> Callable[[], dict[str, float]]:
    """A side on a machine that gets slower with every measurement; it takes `factor` of the first one's time."""

    def measure() -> dict[str, float]:
        order.append(name)
        return {"step_ms": factor * (1 + 0.01 * len(order))}

    return measure


def test_sides_take_turns_and_the_first_is_measured_twice() -> None:
    order: list[str] = []
    rounds = interleave({name: drifting(order, name, 1.0) for name in "abc"}, rounds=3)
    assert order == list("abca") * 3
    assert {name: len(times["step_ms"]) for name, times in rounds.times.items()} == {"a": 3, "b": 3, "c": 3}
    assert len(rounds.again["step_ms"]) == 3


def test_ratios_are_of_one_round_and_noise_is_the_first_side_against_itself() -> None:
    order: list[str] = []
    sides = {"a": drifting(order, "a", 1.0), "half": drifting(order, "half", 0.5), "same": drifting(order, "same", 1.0)}
    rounds = interleave(sides, rounds=5)
    assert rounds.ratio("half", "step_ms").median == pytest.approx(2, rel=0.02)
    assert rounds.noise("step_ms") == pytest.approx(0.03, abs=0.005)
    for side, is_one in (("half", True), ("same", False)):
        fields = comparison(rounds, side, "step_ms")
        shown = shown_ratio(fields["speedup"], fields["noise"])
        assert is_difference(rounds.ratio(side, "step_ms"), rounds.noise("step_ms")) == is_one
        assert (shown == "no difference") == (not is_one)


@pytest.mark.parametrize(
    ("ratio", "noise", "expected"),
    [
        (Spread(1.2, 1.1, 1.3), 0.05, True),
        (Spread(0.8, 0.7, 0.9), 0.05, True),
        (Spread(1.04, 1.01, 1.3), 0.05, False),  # within the noise
        (Spread(1.2, 0.9, 1.3), 0.05, False),  # not in every round
    ],
)
def test_what_counts_as_a_difference(ratio: Spread, noise: float, expected: bool) -> None:
    assert is_difference(ratio, noise) == expected


def test_results_say_what_the_processor_has() -> None:
    features = describe_machine()["features"]
    assert {"avx2", "avx512_vnni"} <= features.keys()
    assert all(isinstance(value, bool) for value in features.values())


def test_the_tour_of_the_readme_is_found() -> None:
    commands = tour()
    assert len(commands) == 5
    assert commands[0].startswith("pip install")
    assert all(line.startswith("codegen-edge ") for line in commands[1:])
