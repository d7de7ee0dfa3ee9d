"""Runtime openvino beside runtime cpu, as docs/openvino.md shows it."""

from __future__ import annotations

from benchmarks.harness import shown_ratio
from benchmarks.tables.common import load, nothing_yet, processor

_FIGURES = {
    "prefill_ms": "prefill of {prompt_tokens} tokens",
    "decode_ms": "decode step after {prompt_tokens} tokens",
    "long_decode_ms": "decode step after {long_past} tokens",
}


def openvino_lines() -> list[str]:
    """Prefill and decode of both runtimes, and their ratio."""
    if nothing := nothing_yet("openvino.json", "python -m benchmarks.openvino_cpu"):
        return nothing
    result = load("openvino.json")
    machine = result["machine"]
    lines = [
        f"Milliseconds (median of {result['rounds']} interleaved rounds), the 350M shape with random weights; "
        f"{processor(machine)}, load average {machine['load_average']:.1f} beside it; onnxruntime "
        f"{machine['packages']['onnxruntime']}, openvino {machine['openvino']}:",
        "",
        "| bundle | step | cpu | openvino | speed of openvino relative to cpu |",
        "|---|---|---|---|---|",
    ]
    for scheme, figures in result["runs"].items():
        for figure, label in _FIGURES.items():
            row = figures[figure]
            times = [f"{row[name]['median']:.1f}" for name in ("cpu", "openvino")]
            cells = [scheme, label.format(**result), *times, shown_ratio(row["speedup"], row["noise"])]
            lines.append(f"| {' | '.join(cells)} |")
    return lines
