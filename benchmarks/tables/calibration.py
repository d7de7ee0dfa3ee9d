"""How much text GPTQ needs, as docs/quantize.md shows it."""

from __future__ import annotations

from benchmarks.tables.common import load
from codegen_edge.evaluation.quality.intervals import shown_interval


def calibration_lines() -> list[str]:
    """What int4 costs by the length of the calibration text, and without one."""
    rows = load("calibration.json")["int4"]
    num_tokens = next(iter(rows.values()))["num_tokens"]
    lines = [
        f"Perplexity of the trained checkpoint in int4 over {num_tokens:,} held-out tokens, relative to float32, "
        "calibrated with the beginning of the text that ships; in brackets the 95% interval over programs:",
        "",
        "| tokens of calibration text | perplexity |",
        "|---|---|",
    ]
    for name, row in rows.items():
        shown = f"{int(name):,}" if name.isdecimal() else f"none: `--method {name}`"
        interval = shown_interval(row["perplexity_loss_interval"], "+.2%")
        lines.append(f"| {shown} | {row['perplexity_loss']:+.2%}{interval} |")
    return lines
