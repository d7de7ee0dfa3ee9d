from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.steady import READINGS, growth_of

REPOSITORY = Path(__file__).resolve().parents[2]


def test_growth_is_that_of_the_second_half() -> None:
    flat = [100_000_000] * READINGS
    start = [50_000_000] * (READINGS // 2) + flat[: READINGS // 2]
    leak = [100_000_000 + 400_000 * number for number in range(READINGS)]
    assert growth_of(flat) == pytest.approx(0)
    assert growth_of(start) == pytest.approx(0)
    assert growth_of(leak) == pytest.approx(50 * 400_000 / 130_000_000, rel=0.02)


def test_memory_that_is_kept_is_seen() -> None:
    program = """
from benchmarks.steady import READINGS, growth_of, readings
kept = []
print(growth_of(readings(lambda: kept.append(b"x" * 2**20), READINGS)))
print(growth_of(readings(lambda: b"x" * 2**20, READINGS)))
"""
    # In a process of its own: what a suite freed before would be taken first.
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    kept, freed = map(float, done.stdout.split())
    assert kept > 0.1
    assert abs(freed) < 0.01
