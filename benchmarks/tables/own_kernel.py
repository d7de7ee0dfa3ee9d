"""What a kernel of our own would gain, as docs/performance.md shows it."""

from __future__ import annotations

from typing import Any

from benchmarks.harness import shown_ratio
from benchmarks.tables.common import load, nothing_yet, processor

_TIMES = {
    "decode_ms": "decode step after 128 tokens",
    "eight_rows_ms": "decode step of eight rows",
    "eight_tokens_ms": "step of eight tokens of one row",
    "prefill_ms": "prefill of 128 tokens",
}


def kernel_lines() -> list[str]:
    """ONNX Runtime's products and the probe's, by scheme."""
    if nothing := nothing_yet("own_kernel.json", "python -m benchmarks.own_kernel.probe --include DIR"):
        return nothing
    result = load("own_kernel.json")
    rows = []
    for scheme, found in result["schemes"].items():
        figures = found["figures"]
        rows += [_row(f"{scheme}: {shown}", figures[name], " ms") for name, shown in _TIMES.items()]
        rows.append(_row(f"{scheme}: to open the session", figures["open_s"], " s"))
        ours, theirs = (figures["grown_bytes"][side]["median"] / 1e6 for side in ("own", "onnxruntime"))
        rows.append(f"| {scheme}: memory that opening it takes | {theirs:,.0f} MB | {ours:,.0f} MB | |")
    return [
        f"The 350M shape, median of {result['rounds']} interleaved rounds; {processor(result['machine'])}:",
        "",
        "| | ONNX Runtime's products | the probe's | faster |",
        "|---|---|---|---|",
        *rows,
    ]


def _row(name: str, figures: dict[str, Any], unit: str) -> str:
    theirs, ours = (figures[side]["median"] for side in ("onnxruntime", "own"))
    digits = 2 if unit == " s" else 1
    shown = shown_ratio(figures["speedup"], figures["noise"])
    return f"| {name} | {theirs:.{digits}f}{unit} | {ours:.{digits}f}{unit} | {shown} |"
