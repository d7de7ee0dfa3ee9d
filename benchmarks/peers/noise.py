"""Whether the machine was quiet enough for a verdict, by the bounds of `codegen-edge bench`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.harness import Rounds
from codegen_edge.evaluation.speed.surroundings import Load
from codegen_edge.evaluation.speed.verdict import BUSY_SHARE, MOST_NOISE, WAITING_SHARE


def noise_of(rounds: Rounds) -> dict[str, float]:
    """By figure, by how much the first system differed from itself."""
    first = rounds.times[next(iter(rounds.times))]
    return {figure: rounds.noise(figure) for figure in rounds.again if figure in first}


def too_noisy(noise: Mapping[str, float], figure: str) -> str:
    """Why a figure decides nothing; "" where it does."""
    if figure not in noise:
        return "it has no noise bound: our own system failed"
    return f"our own system differed from itself by {noise[figure]:.0%}" if noise[figure] > MOST_NOISE else ""


def surroundings(load: Load, machine: Mapping[str, Any]) -> list[str]:
    """What else the machine did, one phrase each; none where it was quiet, or does not say."""
    found, cores = [], machine["cores"] or 1
    if load.average_before is not None and load.average_before > BUSY_SHARE * cores:
        found.append(f"load average {load.average_before:.1f} on {cores} cores before the run")
    if load.waiting is not None and load.waiting > WAITING_SHARE:
        found.append(f"some program waited for a processor in {load.waiting:.0%} of the time")
    return found
