"""How long a prompt takes by the tokens of a step, as docs/performance.md shows it."""

from __future__ import annotations

from benchmarks.harness import shown_ratio
from benchmarks.tables.common import load, nothing_yet, processor


def chunk_lines() -> list[str]:
    """Seconds of a long prompt by precision and by size of a chunk."""
    if nothing := nothing_yet("prefill_chunks.json", "python -m benchmarks.prefill_chunks"):
        return nothing
    result = load("prefill_chunks.json")
    variants = result["variants"]
    first, *others = sizes = list(next(iter(variants.values())))
    shown = [first, *sorted(others, key=int)]
    lines = [
        f"Seconds of a prompt of {result['prompt_tokens']:,} tokens, the 350M shape, median of {result['rounds']} "
        f"interleaved rounds; {processor(result['machine'])}. In brackets how much faster than {first} tokens at once:",
        "",
        f"| precision | {' | '.join(f'{size} tokens' for size in shown)} |",
        "|---" * (len(sizes) + 1) + "|",
    ]
    for name, found in variants.items():
        cells = []
        for size in shown:
            figures = found[size]
            ratio = "" if size == first else f" ({shown_ratio(figures['speedup'], figures['noise'])})"
            cells.append(f"{figures['prefill_s']['median']:.2f}{ratio}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines
