"""From verdicts to scores: pass@k, how sure it is, and whether two bundles differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.quality.intervals import Interval, bootstrap_interval

_TAIL = 0.025  # left out on either side: a 95% interval

Verdicts = Mapping[tuple[str, int], bool]
"""Whether each sample passed, by the problem's task_id and the number of the sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A mean over problems.

    Attributes:
        value: the mean.
        interval: 95%, by drawing problems anew; None for a single problem.
        num_problems: how many.
    """

    value: float
    interval: Interval | None
    num_problems: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedComparison:
    """Two bundles over the same samples of the same problems.

    Attributes:
        only_first, only_second: samples that passed for one of them alone.
        p_value: of McNemar's exact test, two-sided. It takes samples for independent; with several per problem they
            are not, and the interval is what counts.
        difference: the second one's pass rate less the first one's; mean over problems, with its interval.
    """

    only_first: int
    only_second: int
    p_value: float
    difference: Score


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """The chance that at least one of k samples is right, without bias.

    1 - C(n - c, k) / C(n, k), as a product that does not overflow (M. Chen et al., "Evaluating Large Language Models
    Trained on Code", 2021, figure 3).

    Args:
        num_samples: n, how many were drawn.
        num_correct: c, how many of them passed.
        k: at most n.

    Raises:
        InvalidInputError: a number is no whole one (NaN is none), or out of range.
    """
    for name, value in (("num_samples", num_samples), ("num_correct", num_correct), ("k", k)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            raise InvalidInputError(f"{name} must be a whole number, got {value!r}")
    if not 0 <= num_correct <= num_samples:
        raise InvalidInputError(f"num_correct must be in 0…{num_samples}, the samples, got {num_correct}")
    if not 1 <= k <= num_samples:
        raise InvalidInputError(f"pass@{k} needs a k in 1…{num_samples}, the samples of the problem")
    if num_samples - num_correct < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(num_samples - num_correct + 1, num_samples + 1)))


def mean_pass_at_k(tallies: Sequence[tuple[int, int]], k: int) -> Score:
    """pass@k over problems, with its interval.

    Args:
        tallies: by problem, how many samples were drawn and how many passed.
        k: at most the samples of every problem.

    Raises:
        InvalidInputError: there is no problem, or a tally is out of range.
    """
    return mean_rate([pass_at_k(num_samples, num_correct, k) for num_samples, num_correct in tallies])


def mean_rate(values: Sequence[float]) -> Score:
    """The mean of one rate per problem, with its interval.

    Where every problem has 0, or every one 1, drawing anew shows nothing; the interval is then the exact one of the
    binomial distribution (C. Clopper, E. Pearson, 1934): the rate at which all come out alike with a chance of 2.5%.

    Raises:
        InvalidInputError: there is no problem, or a value is NaN or infinite.
    """
    score = mean_score(values)
    widest = 1 - _TAIL ** (1 / len(values))
    if score.interval == (0.0, 0.0):
        return replace(score, interval=(0.0, widest))
    if score.interval == (1.0, 1.0):
        return replace(score, interval=(1 - widest, 1.0))
    return score


def mean_score(values: Sequence[float]) -> Score:
    """The mean of one value per problem, with its interval.

    Raises:
        InvalidInputError: there is no problem, or a value is NaN or infinite.
    """
    if not values:
        raise InvalidInputError("there is no problem to score")
    if not all(map(math.isfinite, values)):
        raise InvalidInputError("a problem's score is NaN or infinite")
    sums = np.array([(value, 1.0) for value in values])
    return Score(
        value=math.fsum(values) / len(values),
        interval=bootstrap_interval(sums, lambda totals: totals[..., 0] / totals[..., 1]),
        num_problems=len(values),
    )


def tally(verdicts: Verdicts) -> dict[str, tuple[int, int]]:
    """By problem, how many samples there are and how many passed; in the order of their first samples."""
    counts: dict[str, tuple[int, int]] = {}
    for (task_id, _), passed in verdicts.items():
        num_samples, num_correct = counts.get(task_id, (0, 0))
        counts[task_id] = (num_samples + 1, num_correct + passed)
    return counts


def compare(first: Verdicts, second: Verdicts) -> PairedComparison:
    """Whether two bundles differ, sample by sample.

    Args:
        first: verdicts of the one.
        second: verdicts of the other, on the same samples of the same problems.

    Raises:
        InvalidInputError: there is no sample, or they are not of the same samples.
    """
    if first.keys() != second.keys():
        task_id, sample = min(first.keys() ^ second.keys())
        raise InvalidInputError(
            f"only results of the same samples can be compared: {task_id} (sample {sample}) is in one of them alone; "
            f"they have {len(first)} and {len(second)} samples, {len(first.keys() & second.keys())} in common"
        )
    only_first = sum(first[each] and not second[each] for each in first)
    only_second = sum(second[each] and not first[each] for each in first)
    before, after = tally(first), tally(second)
    return PairedComparison(
        only_first=only_first,
        only_second=only_second,
        p_value=mcnemar(only_first, only_second),
        difference=mean_score([(after[each][1] - before[each][1]) / before[each][0] for each in before]),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's exact test: the chance of a split at least as uneven if neither bundle were better.

    Twice the smaller tail of a binomial distribution of `only_first + only_second` fair draws, at most 1 (Q. McNemar,
    1947, in its exact form). Samples on which both bundles agree say nothing and are left out.

    Args:
        only_first: samples that passed for the first bundle alone.
        only_second: samples that passed for the second one alone.

    Raises:
        InvalidInputError: a count is negative.
    """
    if min(only_first, only_second) < 0:
        raise InvalidInputError(f"counts must not be negative, got {only_first} and {only_second}")
    count, term, tail = only_first + only_second, 1, 0
    for place in range(min(only_first, only_second) + 1):
        tail += term  # term: C(count, place)
        term = term * (count - place) // (place + 1)
    return min(1.0, 2 * tail / (1 << count))


def standard_error(num_correct: int, num_samples: int) -> float:
    """Of a pass rate over independent samples: sqrt(p (1 - p) / n), the binomial distribution's.

    Raises:
        InvalidInputError: there is no sample.
    """
    if num_samples < 1:
        raise InvalidInputError("there is no sample to score")
    rate = num_correct / num_samples
    return math.sqrt(rate * (1 - rate) / num_samples)
