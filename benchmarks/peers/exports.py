"""Export beside optimum's: time and memory of both programs, in turn."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import interleave
from benchmarks.peers.artifacts import Artifacts, ConversionError, export_commands, run_command
from benchmarks.peers.environments import NotInstalledError


def measure_exports(
    artifacts: Artifacts, rounds: int, on_turn: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """By program, "seconds" and "peak_rss_bytes" of every round; "error" where it cannot be had.

    Args:
        artifacts: where the checkpoint lies.
        rounds: at least 2.
        on_turn: called with a line of progress.
    """
    try:
        checkpoint = artifacts.path("checkpoint")
        with tempfile.TemporaryDirectory(dir=checkpoint.parent) as scratch:
            out = Path(scratch) / "out"

            def turn(command: list[str]) -> dict[str, float]:
                shutil.rmtree(out, ignore_errors=True)
                return asdict(run_command(command))

            def on_round(number: int, name: str, figures: dict[str, float]) -> None:
                took = f"{figures['seconds']:.0f} s, {figures['peak_rss_bytes'] / 1e9:.2f} GB"
                on_turn(f"export, round {number + 1} of {rounds}: {name}: {took}")

            sides = {name: partial(turn, command) for name, command in export_commands(checkpoint, out).items()}
            return interleave(sides, rounds=rounds, is_first_doubled=False, on_round=on_round).times
    except (ConversionError, NotInstalledError) as exc:
        return {"error": str(exc)}
