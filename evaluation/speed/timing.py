"""How everything is timed: interleaved rounds, medians with their range, and a bound for what is only noise.

A machine's speed drifts by a tenth and more within minutes. So the sides of a comparison take turns (A B C A B C), a
ratio is one of times of the same round, and what is claimed is the median of the rounds' ratios with the range of
them. The first side is measured twice in every round; how far its two times differ, A against A, is what two sides
may differ by without any difference between them.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ROUNDS = 5
_AGAIN = "again: "  # the first side, measured a second time


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range of one figure over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def to_dict(self, digits: int = 3) -> dict[str, float]:
        """For JSON."""
        return {"median": round(self.median, digits), "low": round(self.low, digits), "high": round(self.high, digits)}


@dataclass(frozen=True, slots=True)
class Rounds:
    """Times of interleaved rounds.

    Attributes:
        times: by side, by figure, one value per round, in the figure's own unit.
        again: the first side's second measurement, by figure; empty where there was none.
    """

    times: dict[str, dict[str, list[float]]]
    again: dict[str, list[float]]

    def spread(self, side: str, figure: str) -> Spread:
        """Of a side's own values."""
        return Spread.of(self.times[side][figure])

    def ratio(self, side: str, figure: str, base: str | None = None) -> Spread:
        """How many times as fast as the first side, or as `base`: its time over this side's, round by round."""
        times = self.times[next(iter(self.times)) if base is None else base][figure]
        return Spread.of([other / own for other, own in zip(times, self.times[side][figure], strict=True)])

    def noise(self, figure: str) -> float:
        """The largest |ratio - 1| of the first side against itself."""
        first = self.times[next(iter(self.times))][figure]
        return max(abs(base / own - 1) for base, own in zip(first, self.again[figure], strict=True))


def interleave(
    sides: Mapping[str, Callable[[], dict[str, float]]],
    *,
    rounds: int = ROUNDS,
    is_first_doubled: bool = True,
    on_round: Callable[[int, str, dict[str, float]], None] = lambda *_: None,
    on_rounds: Callable[[Rounds], None] = lambda _: None,
) -> Rounds:
    """Run every side once per round, in turn, the first one again at the end of the round.

    Args:
        sides: by name, what measures its figures (each the smaller the better) once.
        rounds: at least 2.
        is_first_doubled: whether the first side is measured again; without, there is no noise bound.
        on_round: called with the number of the round, the side and its figures.
        on_rounds: called after every round but the first with what there is, for runs that may end before their time.
    """
    assert rounds >= 2, "one round has no range"
    first = next(iter(sides))
    order = {**sides, **({_AGAIN + first: sides[first]} if is_first_doubled else {})}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in order}
    so_far = Rounds({}, {})
    for number in range(rounds):
        for name, measure in order.items():
            gc.collect()
            figures = measure()
            found[name].append(figures)
            on_round(number, name, figures)
        if number > 0:
            so_far = _by_side(found, first)
            on_rounds(so_far)
    return so_far


def _by_side(found: Mapping[str, Sequence[Mapping[str, float]]], first: str) -> Rounds:
    columns = {name: {key: [each[key] for each in runs] for key in runs[0]} for name, runs in found.items()}
    return Rounds(columns, columns.pop(_AGAIN + first, {}))


def is_difference(ratio: Spread, noise: float) -> bool:
    """Whether a ratio is a difference: beyond the noise in the median, and on one side of 1 in every round."""
    return abs(ratio.median - 1) > noise and (ratio.low > 1 or ratio.high < 1)


def shown_ratio(ratio: Mapping[str, float], noise: float) -> str:
    """A committed ratio for a table: `2.9x (2.7-3.0)`, or "no difference"."""
    spread = Spread(ratio["median"], ratio["low"], ratio["high"])
    if not is_difference(spread, noise):
        return "no difference"
    return f"{spread.median:.2f}× ({spread.low:.2f}–{spread.high:.2f})"


def percentile(values: Sequence[float], share: float) -> float:
    """By nearest rank: a value that was measured, below or at which `share` (0…1) of them lie."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median_ms(count: int, work: Callable[[], object]) -> float:
    """The median of `count` runs after one to warm up, in milliseconds."""
    work()
    times = []
    for _ in range(count):
        started = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def comparison(rounds: Rounds, side: str, figure: str) -> dict[str, Any]:
    """A side against the first one, for JSON: the ratio with its range, and the noise bound of the same run."""
    ratio = rounds.ratio(side, figure)
    return {"speedup": ratio.to_dict(), "noise": round(rounds.noise(figure), 4)}
