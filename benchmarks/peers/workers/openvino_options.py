"""What both ways to OpenVINO set."""

from __future__ import annotations

from typing import Any


def properties(precision: str, threads: int) -> dict[str, Any]:
    """Threads, and for float32 what keeps it float32: the KV cache is 8 bits by default, on some processors more."""
    chosen: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    if precision == "fp32":
        chosen |= {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
    return chosen
