"""What a busy neighbour costs, as docs/performance.md shows it."""

from __future__ import annotations

from benchmarks.harness import shown_ratio
from benchmarks.tables.common import load, processor

_NEIGHBOURS = {"0": "none", "1": "one core burnt", "2": "two cores burnt"}
_OWN = "20 us"


def neighbour_lines() -> list[str]:
    """Decode steps beside busy processes, by how long a waiting thread spins."""
    result = load("neighbours.json")
    sides = list(next(iter(result["neighbours"].values())))
    quiet = result["neighbours"]["0"][_OWN]["step_ms"]["median"]
    lines = [
        "Milliseconds of a decode step after 128 tokens (median of interleaved rounds), the 350M shape in int8; "
        f"{processor(result['machine'])}. In brackets how much faster than onnxruntime's own setting:",
        "",
        "| neighbours | onnxruntime's spinning | 20 µs (ours) | no spinning | speed of ours against no neighbour |",
        "|---|---|---|---|---|",
    ]
    for count, row in result["neighbours"].items():
        cells = [f"{row[sides[0]]['step_ms']['median']:.1f}"]
        for name in sides[1:]:
            figures = row[name]
            cells.append(f"{figures['step_ms']['median']:.1f} ({shown_ratio(figures['speedup'], figures['noise'])})")
        share = quiet / row[_OWN]["step_ms"]["median"]
        lines.append(f"| {_NEIGHBOURS[count]} | {' | '.join(cells)} | {share:.2f}× |")
    return lines
