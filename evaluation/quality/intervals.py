"""How sure a figure over documents is: bootstrap intervals.

Documents differ more from one another than tokens of one do, so they are what is drawn anew (B. Efron, "Bootstrap
Methods", 1979; percentile interval). Figures of two bundles over the same documents are drawn together, which leaves
what differs between documents out of their difference.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]

_RESAMPLES = 2000
_TAIL = 0.025  # left out on either side: a 95% interval
_SEED = 0  # the same documents give the same interval


def bootstrap_interval(
    sums: NDArray[np.float64], statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> Interval | None:
    """The 95% interval of a statistic over documents.

    Args:
        sums: [documents, k] what each document adds to the k totals that the statistic is made of.
        statistic: from totals [..., k] to values [...].

    Returns:
        Its 2.5th and 97.5th percentile, or None for fewer than two documents, which say nothing of one another.
    """
    count = len(sums)
    if count < 2:
        return None
    draws = np.random.default_rng(_SEED).multinomial(count, np.full(count, 1 / count), size=_RESAMPLES)
    low, high = np.quantile(statistic(draws @ sums), (_TAIL, 1 - _TAIL))
    return float(low), float(high)


def shown_interval(interval: Interval | None, spec: str) -> str:
    """` [low, high]` with each bound in the format `spec`, or nothing."""
    return "" if interval is None else f" [{interval[0]:{spec}}, {interval[1]:{spec}}]"
