"""Write README's results and their picture from benchmarks/results: python -m benchmarks.report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results"
README = REPOSITORY / "README.md"
PICTURE = REPOSITORY / "docs" / "export_memory.svg"
START, END = "<!-- results:", "<!-- end of results -->"


def load(name: str) -> dict[str, Any]:
    """A committed result."""
    fields: dict[str, Any] = json.loads((RESULTS / name).read_text())
    return fields


def render(readme: str) -> str:
    """README with its results section written anew."""
    head, _, rest = readme.partition(START)
    comment, _, rest = rest.partition("\n")
    _, _, tail = rest.partition(END)
    section = "\n".join(
        [
            *_parity_lines(),
            "",
            *_interop_lines(),
            "",
            *_quantization_lines(),
            "",
            *_generation_lines(),
            "",
            *_memory_lines(),
        ]
    )
    return f"{head}{START}{comment}\n{section}\n{END}{tail}"


def _parity_lines() -> list[str]:
    result = load("parity-350m.json")
    parity = result["parity"]
    rows = [
        f"| {c['scenario']} | {c['positions']} | {c['max_abs_error']:.1e} | {c['top1_agreement']:.2%} "
        f"| {c['near_ties']} |"
        for c in parity["comparisons"]
    ]
    limit = parity["comparisons"][0]["limit"]
    return [
        f"The 350M shape (random weights, fp32) against transformers, {parity['num_prompts']} prompts and "
        f"{parity['num_steps']} cached steps each; the limit is {limit:.0e}:",
        "",
        "| fed as | positions | max \\|Δlogit\\| | top-1 | near ties |",
        "|---|---|---|---|---|",
        *rows,
    ]


def _interop_lines() -> list[str]:
    tokens = load("parity-350m.json")["tokens_equal_transformers"]
    clients = load("interop.json")["clients"]
    equal = [name for name, is_equal in tokens.items() if is_equal]
    others = [name for name, client in clients.items() if client["tokens_equal"] and name not in equal]
    return [
        f"64 greedy tokens equal to transformers' on that checkpoint: {', '.join(equal)}; on a smaller one, the "
        f"bundle unchanged: {', '.join(others)}."
    ]


def _quantization_lines() -> list[str]:
    result = load("quantization.json")
    speed = {row["variant"]: row for row in result["speed"]["variants"]}
    rows = []
    for row in result["quality"]["variants"]:
        measured = speed.get(row["variant"])
        times = (
            "| | | |"
            if measured is None
            else f"| {measured['decode_speedup']:.1f}× "
            + (f"| {measured['prefill_speedup']:.1f}× | {measured['long_decode_speedup']:.1f}× |")
        )
        rows.append(
            f"| {row['variant']} | {row['size_ratio']:.3f} | {row['perplexity_loss']:+.2%} | {row['mean_kl']:.1e} "
            f"| {row['top1_agreement']:.1%} {times}"
        )
    tokens = result["quality"]["variants"][0]["num_tokens"]
    return [
        f"Quantized: damage on the trained checkpoint ({tokens} held-out tokens, through the KV cache, against its "
        "float32 bundle), speed on the 350M shape against our own float32 in the same run (2 cores; decode after 128 "
        "tokens, and after 1,900):",
        "",
        "| variant | bytes | perplexity | KL | top-1 | decode | prefill | decode, long |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
    ]


def _generation_lines() -> list[str]:
    result = load("generation.json")
    rows = [
        f"| {scheme} | {measured['overhead']['overhead']:.1%} | {measured['batch_of_8']['ratio']:.1f}× "
        f"| {measured['lookup_edit']['speedup']:.1f}× | {measured['lookup_fresh']['speedup']:.2f}× "
        f"| {measured['session']['share']:.1%} |"
        for scheme, measured in result.items()
        if isinstance(measured, dict) and "overhead" in measured
    ]
    return [
        "The generation loop on the 350M shape: what it adds to the bare run of the graph in a decode step; the tokens "
        "of eight rows against those of one; prompt-lookup on an edit that repeats its prompt, and where guesses are "
        "wrong; how soon a turn behind 1,500 tokens starts, against reading them:",
        "",
        "| variant | overhead | eight rows | lookup, edit | lookup, wrong | turn |",
        "|---|---|---|---|---|---|",
        *rows,
    ]


def _memory_lines() -> list[str]:
    rows = [
        f"| {e['size']} | {e['bundle_bytes'] / 1e9:.2f} GB | {e['peak_rss_bytes'] / 1e9:.2f} GB "
        f"| {e['bound_bytes'] / 1e9:.2f} GB |"
        for e in load("export_memory.json")["exports"]
    ]
    return [
        "![Peak memory of an export beside the size of its bundle](docs/export_memory.svg)",
        "",
        "| shape | bundle | peak memory of the export | bound |",
        "|---|---|---|---|",
        *rows,
    ]


def draw() -> None:
    """Draw peak memory beside bundle size."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "codegen-edge"  # the same picture from the same numbers
    exports = load("export_memory.json")["exports"]
    figure, axes = plt.subplots(figsize=(7, 2.6))
    places = range(len(exports))
    axes.barh(
        [p + 0.2 for p in places], [e["bundle_bytes"] / 1e9 for e in exports], 0.38, label="bundle", color="#c4ccd8"
    )
    axes.barh(
        [p - 0.2 for p in places], [e["peak_rss_bytes"] / 1e9 for e in exports], 0.38, label="peak memory of the export"
    )
    axes.set_yticks(list(places), [e["size"] for e in exports])
    axes.set_xlabel("GB")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(PICTURE, metadata={"Date": None})


if __name__ == "__main__":
    README.write_text(render(README.read_text()))
    draw()
