"""How everything here is timed: the interleaved rounds of `codegen-edge bench`, under the name that benchmarks use."""

from __future__ import annotations

from codegen_edge.evaluation.speed.timing import (
    ROUNDS,
    Rounds,
    Spread,
    comparison,
    interleave,
    is_difference,
    median_ms,
    shown_ratio,
)

__all__ = ["ROUNDS", "Rounds", "Spread", "comparison", "interleave", "is_difference", "median_ms", "shown_ratio"]
