"""What a results folder says: the run, its scores, and for each problem how many samples passed and which are shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

PASSED = "passed"
# In the order of how far a program came. Kinds that are not known here follow in the order of the alphabet.
KINDS = (
    *(PASSED, "context", "syntax", "name", "exception", "assertion", "value", "text"),
    *("timeout", "memory", "output", "exit", "forged", "sandbox"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A figure of a run, between 0 and 1, with its 95% interval where there are problems enough for one."""

    name: str
    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptSample:
    """A sample whose text the page shows: the first that passed or the first that failed."""

    sample: int
    passed: bool
    kind: str | None
    message: str
    turns: tuple[str, ...]
    num_tokens: int | None
    finish_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """The samples of one problem.

    Args:
        kinds: how many samples were of each kind; PASSED is one of them.
        first_passed: whether the sample of the lowest number passed.
        kept: at most one that passed and one that failed, in the order of their numbers.
    """

    kinds: Mapping[str, int]
    first_passed: bool
    kept: tuple[KeptSample, ...]

    @property
    def num_samples(self) -> int:
        """Samples with a verdict."""
        return sum(self.kinds.values())

    @property
    def num_passed(self) -> int:
        """Samples that passed."""
        return self.kinds.get(PASSED, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is shown beside completions: the prompt, and the canonical solution or the expected value."""

    task_id: str
    prompt: str
    reference: str


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What ran, and where. Empty or None: the folder does not say."""

    bundle: str
    precision: str
    runtime: str
    bundle_bytes: int | None
    sandbox: str
    processor: str
    values: Mapping[str, Any] = field(repr=False)  # all of it, as JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One results folder.

    Args:
        label: tells it apart from the other runs of the report; `labelled` sets it.
        scores: none of an unfinished run.
        num_problems: of the task; None where an unfinished run does not say.
        num_waiting: samples without a verdict.
    """

    folder: Path
    label: str
    task: str
    hash: str
    configuration: Mapping[str, Any] = field(repr=False)  # JSON
    about: About
    is_finished: bool
    scores: tuple[Score, ...]
    problems: Mapping[str, Problem] = field(repr=False)
    tallies: Mapping[str, Tally] = field(repr=False)
    num_problems: int | None
    num_waiting: int
    tokens_per_second: float | None

    @property
    def num_samples(self) -> int:
        """Samples with a verdict."""
        return sum(tally.num_samples for tally in self.tallies.values())

    @property
    def kinds(self) -> Mapping[str, int]:
        """How many samples of the run were of each kind."""
        total: Counter[str] = Counter()
        for tally in self.tallies.values():
            total.update(tally.kinds)
        return total

    @property
    def state(self) -> str:
        """What an unfinished run shows in place of scores; empty for a finished one."""
        if self.is_finished:
            return ""
        of_all = "" if self.num_problems is None else f" of {self.num_problems:,}"
        waiting = f", {self.num_waiting:,} samples not executed yet" if self.num_waiting else ""
        return f"unfinished: {len(self.tallies):,}{of_all} problems{waiting}"

    def score(self, name: str) -> Score | None:
        """The score of this name."""
        return next((score for score in self.scores if score.name == name), None)


def score_names(runs: Sequence[Run]) -> list[str]:
    """The names of all scores, in the order in which runs give them."""
    return list(dict.fromkeys(score.name for run in runs for score in run.scores))


def ordered_kinds(kinds: set[str]) -> list[str]:
    """Kinds in the order in which they are drawn."""
    return [kind for kind in KINDS if kind in kinds] + sorted(kinds.difference(KINDS))


def natural_order(task_id: str) -> tuple[tuple[int, int, str], ...]:
    """A key that sorts HumanEval/2 before HumanEval/10."""
    parts = task_id.replace("_", "/").replace("-", "/").split("/")
    return tuple(
        (0, int(part), "") if len(part) < 10 and part.isascii() and part.isdigit() else (1, 0, part) for part in parts
    )


def labelled(runs: Sequence[Run]) -> list[Run]:
    """The runs with short labels that tell all of one task apart: precision and runtime, and what else differs."""
    labels = [" ".join(filter(None, (run.about.precision, run.about.runtime))) for run in runs]
    for more in (
        [run.about.bundle for run in runs],
        [run.folder.resolve().name for run in runs],
        [str(run.folder) for run in runs],
        [str(number) for number in range(1, len(runs) + 1)],
    ):
        counts = Counter((run.task, label) for run, label in zip(runs, labels, strict=True))
        is_ambiguous = any(count > 1 or not label for (_, label), count in counts.items())
        if is_ambiguous and (len(set(more)) > 1 or not all(labels)):
            labels = [" ".join(filter(None, pair)) for pair in zip(labels, more, strict=True)]
    return [replace(run, label=label) for run, label in zip(runs, labels, strict=True)]
