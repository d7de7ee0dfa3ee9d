"""Two runs over the same problems: is one better, or is what differs noise?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from codegen_edge.evaluation.report.json_fields import cleaned
from codegen_edge.evaluation.report.results import Run, Tally
from codegen_edge.evaluation.report.sections import flattened
from codegen_edge.evaluation.tasks.scores import mcnemar, mean_score

_ROUNDING = 1e-9  # of sums of shares
SIGNIFICANCE = 0.05  # as the 95% of the intervals
# Settings that say which bundle wrote the samples, and how it was run.
_ABOUT_THE_BUNDLE = (
    *("bundle", "precision", "runtime", "bundle_bytes", "samples", "versions", "processor", "cores", "threads"),
    *("exact_steps", "batch"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two finished runs of one task, over the problems of both.

    Args:
        first, second: the runs.
        num_problems: that both have.
        num_left_out: problems, or cases of MTPB, that only one has.
        first_rate, second_rate: mean over problems of the share of samples that passed: pass@1, or the rate.
        difference: the second rate less the first.
        interval: of the difference, 95%; None for fewer than two problems.
        only_first, only_second: problems whose first sample only one run passed.
        p_value: McNemar's exact two-sided test of these.
        is_single: whether every problem has one case and one sample; only then McNemar's test is for independent draws.
        settings: what differs in the configurations, beside the bundle.
    """

    first: Run
    second: Run
    num_problems: int
    num_left_out: int
    first_rate: float
    second_rate: float
    difference: float
    interval: tuple[float, float] | None
    only_first: int
    only_second: int
    p_value: float
    is_single: bool
    settings: tuple[str, ...]

    @property
    def is_difference(self) -> bool:
        """Whether the difference is more than noise: its interval leaves out 0, and McNemar agrees where it applies."""
        if self.interval is None or (self.interval[0] <= _ROUNDING and self.interval[1] >= -_ROUNDING):
            return False
        return not self.is_single or self.p_value < SIGNIFICANCE

    @property
    def verdict(self) -> str:
        """In words."""
        if not self.is_difference:
            return "no difference"
        better, worse = (self.second, self.first) if self.difference > 0 else (self.first, self.second)
        return f"{better.label} is better than {worse.label}"

    @property
    def pair(self) -> str:
        """What is compared with what."""
        return f"{self.first.task}, {self.second.label} against {self.first.label}"

    @property
    def sentence(self) -> str:
        """The comparison for a README."""
        points = f"{shown_points(self.difference)} percentage points"
        interval = "" if self.interval is None else f", 95% interval {shown_interval(self.interval)}"
        left_out = f", without {self.num_left_out} that only one ran" if self.num_left_out else ""
        settings = f" The settings differ as well: {', '.join(self.settings)}." if self.settings else ""
        over = f"over {self.num_problems} problems{left_out}"
        return f"{self.pair}: {self.verdict} ({points}{interval}, {over}{self._test}).{settings}"

    @property
    def _test(self) -> str:
        """McNemar's, in words. With several samples per problem the interval says more, and alone decides."""
        if not self.is_single:
            return ""
        counts = f"{self.only_first} passed only by {self.first.label}, {self.only_second} only by {self.second.label}"
        return f"; {counts}; McNemar's exact p: {shown_p(self.p_value)}"


def compared(runs: Sequence[Run]) -> list[Comparison]:
    """Every two finished runs of the same task that share a problem."""
    pairs = combinations([run for run in runs if run.is_finished], 2)
    made = (_compared(first, second) for first, second in pairs if first.task == second.task)
    return [comparison for comparison in made if comparison is not None]


def _compared(first: Run, second: Run) -> Comparison | None:
    shared = [task_id for task_id in first.tallies if task_id in second.tallies]
    if not shared:
        return None
    pairs = [(first.tallies[each], second.tallies[each]) for each in shared]
    problems = [_problem_of(first.task, each) for each in shared]
    rates = [_rates(problems, tallies) for tallies in zip(*pairs, strict=True)]
    only_first = sum(one.first_passed and not other.first_passed for one, other in pairs)
    only_second = sum(other.first_passed and not one.first_passed for one, other in pairs)
    difference = mean_score([after - before for before, after in zip(*rates, strict=True)])
    return Comparison(
        first=first,
        second=second,
        num_problems=len(rates[0]),
        num_left_out=len(first.tallies.keys() ^ second.tallies.keys()),
        first_rate=sum(rates[0]) / len(rates[0]),
        second_rate=sum(rates[1]) / len(rates[1]),
        difference=difference.value,
        interval=difference.interval,
        only_first=only_first,
        only_second=only_second,
        p_value=mcnemar(only_first, only_second),
        is_single=len(rates[0]) == len(pairs)
        and all(one.num_samples == other.num_samples == 1 for one, other in pairs),
        settings=_differing(first, second),
    )


def _problem_of(task: str, task_id: str) -> str:
    """MTPB's cases "57/0", "57/1", … are of one problem, and pass or fail together more than others do."""
    return task_id.rpartition("/")[0] if task == "mtpb" else task_id


def _rates(problems: Sequence[str], tallies: Sequence[Tally]) -> list[float]:
    """By problem, the share of samples that passed."""
    sums: dict[str, list[int]] = {}
    for problem, tally in zip(problems, tallies, strict=True):
        counts = sums.setdefault(problem, [0, 0])
        counts[0] += tally.num_samples
        counts[1] += tally.num_passed
    return [passed / total for total, passed in sums.values()]


def _differing(first: Run, second: Run) -> tuple[str, ...]:
    """Names of settings that differ, beside those that say which bundle ran where."""
    one, other = flattened(first.configuration), flattened(second.configuration)
    names = [name for name in dict.fromkeys((*one, *other)) if one.get(name) != other.get(name)]
    return tuple(cleaned(name) for name in names if name.split(".", 1)[0] not in _ABOUT_THE_BUNDLE)


def shown_points(difference: float) -> str:
    """A difference in percentage points, with its sign."""
    text = f"{100 * difference:+.1f}".replace("-", "\N{MINUS SIGN}")
    return "0.0" if text[1:] == "0.0" else text


def shown_interval(interval: tuple[float, float]) -> str:
    """An interval of a difference, in percentage points."""
    return f"[{shown_points(interval[0])}, {shown_points(interval[1])}]"


def shown_p(p_value: float) -> str:
    """A p value, as precise as it is of use."""
    return "below 0.001" if p_value < 0.001 else f"{p_value:.3f}"
