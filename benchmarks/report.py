"""Write README's results and their picture from benchmarks/results: python -m benchmarks.report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import shown_ratio
from benchmarks.peers.chart import peers_chart, roofline_chart
from benchmarks.tables import (
    calibration,
    choosing,
    evaluation,
    exactness,
    int4_methods,
    large,
    neighbours,
    openvino,
    own_kernel,
    peers,
    prefill_chunks,
    serving,
    trust,
)
from benchmarks.tables.common import RESULTS, load, processor
from codegen_edge.evaluation.quality.intervals import shown_interval

REPOSITORY = Path(__file__).resolve().parent.parent
README = REPOSITORY / "README.md"
GPU_PAGE = REPOSITORY / "docs" / "gpu.md"
EXACTNESS_PAGE = REPOSITORY / "docs" / "exactness.md"
SERVING_PAGE = REPOSITORY / "docs" / "serving.md"
PERFORMANCE_PAGE = REPOSITORY / "docs" / "performance.md"
EVALUATION_PAGE = REPOSITORY / "docs" / "evaluate.md"
QUANTIZE_PAGE = REPOSITORY / "docs" / "quantize.md"
OPENVINO_PAGE = REPOSITORY / "docs" / "openvino.md"
SECURITY_PAGE = REPOSITORY / "SECURITY.md"
CHOOSING_PAGE = REPOSITORY / "docs" / "choosing.md"
PAGES = (
    README,
    CHOOSING_PAGE,
    SECURITY_PAGE,
    OPENVINO_PAGE,
    GPU_PAGE,
    EXACTNESS_PAGE,
    SERVING_PAGE,
    PERFORMANCE_PAGE,
    EVALUATION_PAGE,
    QUANTIZE_PAGE,
)
PICTURE = REPOSITORY / "docs" / "export_memory.svg"
PEERS_PICTURE = REPOSITORY / "docs" / "pictures" / "peers.svg"
ROOFLINE_PICTURE = PEERS_PICTURE.with_name("roofline.svg")
START, END = "<!-- results:", "<!-- end of results -->"


def render(page: Path) -> str:
    """A page with its results sections written anew, one after the other."""
    sections: dict[Path, tuple[tuple[Callable[[], list[str]], ...], ...]] = {
        README: (
            (
                _parity_lines,
                _interop_lines,
                exactness.exactness_line,
                peers.speed_lines,
                _quantization_lines,
                _generation_lines,
                _memory_lines,
            ),
        ),
        GPU_PAGE: ((_gpu_lines,),),
        EXACTNESS_PAGE: (
            (
                exactness.count_lines,
                exactness.cost_lines,
                exactness.generation_cost_lines,
                exactness.emulated_lines,
                exactness.outlier_lines,
            ),
        ),
        SERVING_PAGE: ((serving.serve_lines,),),
        PERFORMANCE_PAGE: (
            (serving.kernel_lines,),
            (prefill_chunks.chunk_lines,),
            (own_kernel.kernel_lines,),
            (neighbours.neighbour_lines,),
            (peers.peers_lines,),
            (peers.large_peers_lines,),
            (large.large_lines,),
        ),
        OPENVINO_PAGE: ((openvino.openvino_lines,),),
        SECURITY_PAGE: ((trust.trust_lines,),),
        CHOOSING_PAGE: ((choosing.precision_table,),),
        QUANTIZE_PAGE: ((calibration.calibration_lines, int4_methods.method_lines),),
        EVALUATION_PAGE: (
            (
                evaluation.precision_lines,
                evaluation.oracle_lines,
                evaluation.equality_lines,
                evaluation.cache_lines,
            ),
        ),
    }
    written, rest = "", page.read_text()
    for parts in sections[page]:
        head, _, rest = rest.partition(START)
        comment, _, rest = rest.partition("\n")
        _, _, rest = rest.partition(END)
        lines = "\n\n".join("\n".join(part()) for part in parts)
        written += f"{head}{START}{comment}\n{lines}\n{END}"
    return written + rest


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
    timed = {row["variant"]: row for row in result["speed"]["variants"]}
    rows = []
    for row in result["quality"]["variants"]:
        measured = timed.get(row["variant"], {}).get("speedups")
        machine = timed.get(row["variant"], {}).get("machine")
        cells = [
            row["variant"] + (f" (speed: {processor(machine)})" if machine else ""),
            f"{row['size_ratio']:.3f}",
            f"{row['perplexity_loss']:+.2%}{shown_interval(row['perplexity_loss_interval'], '+.2%')}",
            f"{row['mean_kl']:.1e}{shown_interval(row['mean_kl_interval'], '.1e')}",
            f"{row['top1_agreement']:.1%}{shown_interval(row['top1_interval'], '.1%')}",
            *(_ratio(measured[figure]) if measured else "" for figure in ("decode", "prefill", "long_decode")),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    quality = result["quality"]["variants"][0]
    return [
        "Quantized. Damage: the trained checkpoint against its own float32 bundle, "
        f"{quality['num_tokens']:,} tokens of {quality['num_documents']} held-out programs, through the "
        "KV cache; in brackets the 95% interval over programs. Speed: the 350M shape against our own float32 in "
        f"interleaved rounds, median and range of the rounds' ratios; {processor(result['speed']['machine'])}:",
        "",
        "| variant | size relative to float32 | perplexity | KL divergence | top-1 agreement "
        "| speed-up of decode after 128 tokens | of a prefill of 128 tokens | of decode after 1,900 tokens |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
    ]


def _generation_lines() -> list[str]:
    result = load("generation.json")
    rows = []
    for scheme, measured in result.items():
        if not isinstance(measured, dict) or "overhead" not in measured:
            continue
        added, turn = measured["overhead"]["added_ms"], measured["session"]["share"]
        cells = [
            scheme,
            f"{added['median']:.2f} ms ({added['low']:.2f}–{added['high']:.2f})",
            *(_ratio(measured[part]) for part in ("batch_of_8", "lookup_edit", "lookup_fresh")),
            f"{turn['median']:.1%} ({turn['low']:.1%}–{turn['high']:.1%})",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    tokens = next(each["session"]["cached_tokens"] for each in result.values() if "session" in each)
    return [
        "The generation loop on the 350M shape, median and range of interleaved rounds; "
        f"{processor(result['machine'])}:",
        "",
        "| variant | what the loop adds to a decode step | tokens per second of eight rows, relative to one row "
        "| speed-up of prompt-lookup on an edit that repeats its prompt | speed-up when its drafts fail "
        f"| time to first token of a new turn with {tokens:,} cached tokens, relative to reading them again |",
        "|---|---|---|---|---|---|",
        *rows,
    ]


def _ratio(compared: dict[str, Any]) -> str:
    return shown_ratio(compared["speedup"], compared["noise"])


def _gpu_lines() -> list[str]:
    lines: list[str] = []
    for path in sorted(RESULTS.glob("gpu-*.json")):
        result = load(path.name)
        packages = result["machine"]["packages"]
        onnxruntime = next(f"{name} {packages[name]}" for name in packages if name.startswith("onnxruntime"))
        rows = [
            f"| {row['runtime']} | {row['precision']} | {row['batch_size']} | {row['prefill_ms']:.1f} ms "
            f"| {row['decode_ms']:.2f} ms | {row['decode_tokens_per_second']:,.0f} | {row['roofline_share']:.0%} |"
            for row in result["rows"]
            if "error" not in row
        ]
        lines += [
            *([""] if lines else []),
            f"The {result['rows'][0]['shape']} shape on an {result['gpu']['name']} ({onnxruntime}, "
            f"torch {packages['torch']}), prompts of {result['prompt_tokens']} tokens; medians of one run:",
            "",
            "| runtime | weights | rows | prefill | decode step | tokens per second "
            "| share of the decode step that reading weights, keys and values needs at copy bandwidth |",
            "|---|---|---|---|---|---|---|",
            *rows,
        ]
    return lines


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
    for page in PAGES:
        page.write_text(render(page))
    draw()
    if (RESULTS / "peers.json").is_file():
        PEERS_PICTURE.write_text(f"{peers_chart(load('peers.json'))}\n")
        ROOFLINE_PICTURE.write_text(f"{roofline_chart(load('peers.json'))}\n")
