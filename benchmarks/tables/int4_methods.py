"""Time and memory of the methods of int4, as docs/quantize.md shows them."""

from __future__ import annotations

from benchmarks.tables.common import load, nothing_yet, processor


def method_lines() -> list[str]:
    """Seconds, what was wanted of them, and peak memory."""
    if nothing := nothing_yet("int4_methods.json", "python -m benchmarks.int4_methods"):
        return nothing
    result = load("int4_methods.json")
    rows = []
    for row in result["methods"]:
        seconds, most, peak = row["seconds"], row["most_seconds"], row["peak_rss_bytes"]["median"]
        wanted = "" if most is None else f"{most:.0f} s: {'reached' if seconds['median'] <= most else 'missed'}"
        cells = [
            row["method"],
            f"{seconds['median']:.0f} s ({seconds['low']:.0f}–{seconds['high']:.0f})",
            wanted,
            f"{peak / 1e9:.2f} GB",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return [
        f"The 350M shape, whole commands without a comparison, median and range of {result['rounds']} interleaved "
        f"rounds; {processor(result['machine'])}:",
        "",
        "| command and method | time | wanted at most | peak memory |",
        "|---|---|---|---|",
        *rows,
    ]
