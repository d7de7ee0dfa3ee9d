"""A group of systems in interleaved rounds: A B C A, A B C A, …, each in a process of its own, whatever fails."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from benchmarks.harness import Rounds, interleave
from benchmarks.peers.measuring import Outcome, figures_of, step
from benchmarks.peers.system import System
from benchmarks.peers.workers.protocol import TokenIds
from benchmarks.peers.workload import Workload

Measure = Callable[[System], Outcome]
OnTurn = Callable[[str], None]
OnRounds = Callable[[dict[str, "Row"], Rounds], None]


@dataclass(slots=True)
class Row:
    """What became of a system in a group.

    Attributes:
        system: what was measured.
        skipped: why it was not tried, or "".
        errors: by workload, or "" for all of it, why there is nothing.
        token_ids: by workload, of every round.
        versions: of the packages that took part.
    """

    system: System
    skipped: str = ""
    errors: dict[str, str] = field(default_factory=dict)
    token_ids: dict[str, list[TokenIds]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


class SkippedError(Exception):
    """A system is not to be had here; the message is its row."""


def run_group(
    systems: Sequence[System],
    workloads: Sequence[Workload],
    measure: Measure,
    *,
    rounds: int,
    on_turn: OnTurn = lambda _: None,
    on_rounds: OnRounds = lambda *_: None,
) -> tuple[dict[str, Row], Rounds]:
    """Measure systems in turn.

    Args:
        systems: the first one is measured twice in every round.
        workloads: what each runs in each turn.
        measure: runs a system once; raises SkippedError where it cannot be tried.
        rounds: at least 2.
        on_turn: called with a line of progress.
        on_rounds: called after every round but the first with what would be returned.

    Returns:
        Rows by name, and the figures that every round has, without a system's that failed in any.
    """
    rows = {system.name: Row(system=system) for system in systems}
    names = figures_of(workloads)

    def turn(system: System) -> dict[str, float]:
        row, figures = rows[system.name], {}
        if not row.skipped and "" not in row.errors:
            try:
                outcome = measure(system)
            except SkippedError as exc:
                row.skipped = str(exc)
            else:
                _add(row, outcome)
                figures = outcome.figures
        return {name: figures.get(name, math.nan) for name in names}

    def on_round(number: int, name: str, figures: dict[str, float]) -> None:
        row = rows[name.removeprefix("again: ")]
        on_turn(f"round {number + 1} of {rounds}: {name}: {_shown(row, figures, workloads)}")

    sides = {system.name: partial(turn, system) for system in systems}
    found = interleave(
        sides, rounds=rounds, on_round=on_round, on_rounds=lambda so_far: on_rounds(rows, _whole_of(so_far))
    )
    return rows, _whole_of(found)


def _whole_of(found: Rounds) -> Rounds:
    return Rounds({name: _whole(columns) for name, columns in found.times.items()}, _whole(found.again))


def _whole(columns: dict[str, list[float]]) -> dict[str, list[float]]:
    """The figures that no round lacks."""
    return {name: values for name, values in columns.items() if not any(map(math.isnan, values))}


def _add(row: Row, outcome: Outcome) -> None:
    row.errors |= outcome.errors
    row.versions |= outcome.versions
    for name, token_ids in outcome.token_ids.items():
        row.token_ids.setdefault(name, []).append(token_ids)


def _shown(row: Row, figures: dict[str, float], workloads: Sequence[Workload]) -> str:
    if row.skipped:
        return f"skipped, {row.skipped}"
    if "" in row.errors:
        return f"failed, {row.errors['']}"
    rates = {each.name: each.batch / figures[step(each)] for each in workloads if not math.isnan(figures[step(each)])}
    shown = [f"{name} {rate:.1f} tokens/s" for name, rate in rates.items()]
    failed = [f"{name} failed" for name in row.errors]
    return ", ".join([*shown, *failed])
