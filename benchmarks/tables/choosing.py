"""What each precision costs and gives, side by side, as docs/choosing.md shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.harness import Spread
from benchmarks.peers.measuring import PEAK_RSS, first_token, step
from benchmarks.peers.workload import Workload
from benchmarks.tables.common import load, processor
from codegen_edge.evaluation.quality.intervals import shown_interval

_VARIANTS = {
    "int8": "int8",
    "int8, int8 KV cache": "int8, int8 KV cache",
    "int8-dynamic": "int8-dynamic",
    "int4": "int4 (default)",
}


def precision_table() -> list[str]:
    """Size, quality, memory and speed of our own bundles on a processor."""
    result, quality = load("peers.json"), load("quantization.json")["quality"]["variants"]
    damage = {row["variant"]: row for row in quality}
    ours = _ours(result)
    most_bytes = max(row["file_bytes"] for _, row, _ in ours)
    rows = []
    for name, row, workload in ours:
        times = row["times"]
        cells = [
            name,
            f"{row['file_bytes'] / most_bytes:.2f}",
            _loss(name, damage),
            f"{Spread.of(times[PEAK_RSS]).median / 1e6:,.0f} MB",
            f"{1000 * Spread.of(times[first_token(workload)]).median:.0f} ms",
            f"{1 / Spread.of(times[step(workload)]).median:.0f}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return [
        f"Runtime `cpu`, the {result['shape']} shape, a prompt of 128 tokens; {processor(result['machine'])}. "
        "fp32, int8 and int4 are runs of their own on a machine whose speed drifts ([performance]"
        "(performance.md#peers-beside-us) has the ranges). Perplexity is that of the checkpoint that ships:",
        "",
        "| precision | size relative to fp32 | perplexity | peak memory | time to first token "
        "| new tokens per second |",
        "|---|---|---|---|---|---|",
        *rows,
    ]


def _loss(name: str, damage: Mapping[str, Mapping[str, Any]]) -> str:
    if name == "fp32":
        return "none"
    cost = damage.get(_VARIANTS.get(name, ""))
    if cost is None:
        return "not measured"
    return f"{cost['perplexity_loss']:+.2%}{shown_interval(cost['perplexity_loss_interval'], '+.2%')}"


def _ours(result: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], Workload]]:
    found: dict[str, tuple[str, Mapping[str, Any], Workload]] = {}
    for group in result["groups"].values():
        workload = Workload.parse(group["workloads"][0])
        for name, row in group["rows"].items():
            scheme = name.removeprefix("codegen-edge ")
            if row["role"] == "ours" and step(workload) in row["times"]:
                found.setdefault(scheme, (scheme, row, workload))
    return sorted(found.values(), key=lambda each: -(each[1]["file_bytes"] or 0))
