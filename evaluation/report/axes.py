"""Axes of a chart: where a value stands, and which ticks a reader can use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_LOG_FROM = 8.0  # largest over smallest value from which on an axis is logarithmic
_ROOM = 0.08  # of an axis, left free beyond the values


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A scale from `low` to `high`.

    Args:
        low: the value at 0.
        high: the value at 1.
        ticks: values inside of it.
        is_log: whether equal ratios are equally long.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    is_log: bool = False

    def share(self, value: float) -> float:
        """Where a value stands between 0 and 1."""
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def score_axis(bounds: Sequence[float]) -> Axis:
    """An axis of shares between 0 and 1; it starts at 0 unless all scores are high."""
    low, high = min(bounds), max(bounds)
    start = 0.0 if low < 0.4 * high or high - low < 1e-9 else max(0.0, low - 0.3 * (high - low))
    return _linear(start, min(1.0, max(high + _ROOM * (high - start), start + 0.05)), most_ticks=6, limit=1.0)


def amount_axis(values: Sequence[float]) -> Axis:
    """An axis of positive amounts: from 0, or logarithmic where they differ by a lot."""
    low, high = min(values), max(values)
    if high / low < _LOG_FROM:
        whole = _linear(0.0, high, most_ticks=6)
        end = high * (1 + 2 * _ROOM)
        return Axis(low=0.0, high=end, ticks=tuple(tick for tick in whole.ticks if tick <= end))
    edge = (high / low) ** _ROOM
    start, end = low / edge, high * edge
    decades = range(math.floor(math.log10(start)), math.ceil(math.log10(end)) + 1)
    fine = [factor * 10.0**power for power in decades for factor in (1, 2, 5)]
    ticks = [tick for tick in fine if start <= tick <= end]
    if len(ticks) > 6:
        ticks = [tick for tick in ticks if math.isclose(math.log10(tick), round(math.log10(tick)), abs_tol=1e-9)]
    return Axis(low=start, high=end, ticks=tuple(ticks), is_log=True)


def _linear(start: float, end: float, *, most_ticks: int, limit: float = math.inf) -> Axis:
    """From `start` down to a round value, to `end` up to one."""
    rough = (end - start) / most_ticks
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(start / step + 1e-9), math.ceil(end / step - 1e-9)
    ticks = tuple(round(number * step, 12) for number in range(first, last + 1))
    return Axis(low=ticks[0], high=min(ticks[-1], limit), ticks=tuple(tick for tick in ticks if tick <= limit))
