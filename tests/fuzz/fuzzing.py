"""Mutants one after another, each in a child; what ended badly is kept."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.children import Ended, in_child
from tests.fuzz.originals import Originals
from tests.fuzz.subjects import Mutant, Subject

SECONDS_OF_A_MUTANT = 20.0  # a sound one takes a tenth of a second
MEMORY_BYTES = 3 << 30  # beside what this process has


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A mutant that ended badly.

    Attributes:
        number: with the seed, it makes the mutant again.
        subject: what was altered.
        outcome: how it ended.
        words: what was said.
        kept: the folder.
    """

    number: int
    subject: str
    outcome: str
    words: str
    kept: Path


@dataclass(slots=True, kw_only=True)
class Result:
    """Of a run.

    Attributes:
        seed: of all mutants.
        mutants: that differ from their originals; of requests each one counts.
        seconds: that all took.
        outcomes: how often what happened, by what was altered.
        failures: all of them.
    """

    seed: int
    mutants: int = 0
    seconds: float = 0.0
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)


def fuzz(
    originals: Originals,
    subjects: Sequence[Subject],
    work: Path,
    *,
    seed: int,
    mutants: int,
    seconds: float,
    first: int = 0,
) -> Result:
    """Try mutants until there were enough of them or the time is over.

    Args:
        originals: what is altered.
        subjects: ways to do so.
        work: a folder for mutants; those that end badly stay in `failures`.
        seed: with a mutant's number, it makes the same mutant again.
        mutants: at most so many.
        seconds: at most so long, but for the last one.
        first: number of the first one.
    """
    result, number, started_at = Result(seed=seed), first, time.monotonic()
    failures = work / "failures"
    while result.mutants < mutants and time.monotonic() - started_at < seconds:
        rng = random.Random(f"{seed} {number}")
        subject = rng.choices(subjects, [each.weight for each in subjects])[0]
        folder = work / "mutant"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        mutant = subject.make(originals, folder, rng)
        if mutant.is_changed:
            ended = in_child(mutant.attempt, seconds=SECONDS_OF_A_MUTANT, memory_bytes=MEMORY_BYTES)
            outcome, is_fault = judged(mutant, ended)
            result.mutants += mutant.count
            result.outcomes.setdefault(subject.name, Counter())[outcome] += mutant.count
            if is_fault:
                kept = failures / f"{number:06d}-{outcome}-{subject.name}".replace(" ", "_")
                failures.mkdir(exist_ok=True)
                shutil.rmtree(kept, ignore_errors=True)
                shutil.move(folder, kept)
                (kept / "outcome.txt").write_text(f"{subject.name}: {outcome}\n{ended.words}\n")
                result.failures.append(
                    Failure(number=number, subject=subject.name, outcome=outcome, words=ended.words, kept=kept)
                )
        number += 1
    shutil.rmtree(work / "mutant", ignore_errors=True)
    result.seconds = time.monotonic() - started_at
    return result


def judged(mutant: Mutant, ended: Ended) -> tuple[str, bool]:
    """What became of a mutant in a word or two, and whether it is a fault."""
    match ended.outcome:
        case "done" if ended.words == mutant.expected:
            return "same result", False
        case "done":
            return "other result", not mutant.may_differ
        case "error":
            return "refused", False
        case "system error":
            return "system error", False
        case _:
            return ended.outcome, True
