"""The 6B and 16B shapes on a small machine, as docs/performance.md shows them."""

from __future__ import annotations

from typing import Any

from benchmarks.tables.common import load, nothing_yet, processor


def large_lines() -> list[str]:
    """Export, load, memory and speed by size."""
    if nothing := nothing_yet("large.json", "python -m benchmarks.large"):
        return nothing
    result = load("large.json")
    machine = result["machine"]
    rows = [f"| {' | '.join([size, *_cells(row)])} |" for size, row in result["sizes"].items()]
    return [
        "int4 bundles of random checkpoints (scales rounded, not searched), a prompt of 16 tokens and 16 new ones, "
        f"median and range; {processor(machine)}, {machine['memory_gib']} GiB of memory:",
        "",
        "| shape | checkpoint | bundle | export | peak memory of the export | load | peak memory "
        "| of the bundle's bytes | time to first token | new tokens per second | share of the nearer limit |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *rows,
    ]


def _cells(row: dict[str, Any]) -> list[str]:
    roofline, peak = row["roofline"], row["peak_rss_bytes"]
    limits = [] if roofline is None else [roofline["decode_of_memory"], roofline["decode_of_products"]]
    share = max((limit["median"] for limit in limits), default=None)
    return [
        f"{row['checkpoint_bytes'] / 1e9:.1f} GB",
        f"{row['file_bytes'] / 1e9:.2f} GB",
        f"{row['export_seconds'] / 60:.1f} min",
        f"{row['export_peak_rss_bytes'] / 1e9:.2f} GB",
        _shown(row["load_s"], 1) + " s",
        "" if peak is None else f"{peak['median'] / 1e9:.2f} GB",
        "" if peak is None else f"{peak['median'] / row['file_bytes']:.2f}×",
        _shown(row["first_token_s"], 1) + " s",
        _shown(row["decode_tokens_per_second"], 2),
        "" if share is None else f"{share:.0%}",
    ]


def _shown(spread: dict[str, float], digits: int) -> str:
    return f"{spread['median']:.{digits}f} ({spread['low']:.{digits}f}–{spread['high']:.{digits}f})"
