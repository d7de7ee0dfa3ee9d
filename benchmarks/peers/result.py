"""A run as JSON: every round of every figure, what the tokens were worth, and what was skipped, failed or void."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.harness import Rounds
from benchmarks.peers.noise import noise_of, surroundings
from benchmarks.peers.rounds import Row
from benchmarks.peers.tokens import Reference, TokenCheck, check_tokens
from benchmarks.peers.workload import Workload
from codegen_edge.evaluation.speed.surroundings import Load

_DIGITS = 6


def group_result(
    precision: str,
    workloads: Sequence[Workload],
    rows: Mapping[str, Row],
    rounds: Rounds,
    *,
    reference: Mapping[str, Reference],
    load: Load,
    machine: Mapping[str, Any],
    file_bytes: Mapping[str, int],
) -> dict[str, Any]:
    """One group of systems.

    Args:
        precision: of the group.
        workloads: that each system ran.
        rows: by system.
        rounds: of the figures.
        reference: by workload.
        load: how busy the machine was; where neighbours were started, their load is in it.
        machine: what it was measured on.
        file_bytes: by artifact.
    """
    is_alone = not any(each.neighbours for each in workloads)
    noise = noise_of(rounds)
    return {
        "precision": precision,
        "workloads": [each.name for each in workloads],
        "noise": {figure: round(bound, 4) for figure, bound in noise.items()},
        "load": asdict(load),
        "surroundings": surroundings(load, machine) if is_alone else [],
        "rows": {
            name: _row(row, rounds.times[name], reference, file_bytes.get(row.system.artifact))
            for name, row in rows.items()
        },
    }


def _row(
    row: Row, times: Mapping[str, Sequence[float]], reference: Mapping[str, Reference], file_bytes: int | None
) -> dict[str, Any]:
    checks: dict[str, TokenCheck] = {}
    for name, found in row.token_ids.items():
        check = check_tokens(row.system.precision, found, reference.get(name))
        if check is not None:
            checks[name] = check
    wrong = [f"{name}: {check.wrong}" for name, check in checks.items() if check.wrong]
    return {
        "precision": row.system.precision,
        "role": row.system.role,
        "peer": row.system.peer,
        "versions": row.versions,
        "file_bytes": file_bytes,
        "skipped": row.skipped,
        "errors": row.errors,
        "void": wrong[0] if wrong else "",
        "tokens": {name: check.to_dict() for name, check in checks.items()},
        "times": {figure: [round(value, _DIGITS) for value in values] for figure, values in times.items()},
    }
