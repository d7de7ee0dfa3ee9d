"""Write README's results and their picture from benchmarks/results: python -m benchmarks.report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.harness import shown_ratio
from codegen_edge.evaluation.quality.intervals import shown_interval

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results"
README = REPOSITORY / "README.md"
GPU_PAGE = REPOSITORY / "docs" / "gpu.md"
EXACTNESS_PAGE = REPOSITORY / "docs" / "exactness.md"
SERVING_PAGE = REPOSITORY / "docs" / "serving.md"
PAGES = (README, GPU_PAGE, EXACTNESS_PAGE, SERVING_PAGE)
PICTURE = REPOSITORY / "docs" / "export_memory.svg"
START, END = "<!-- results:", "<!-- end of results -->"


def load(name: str) -> dict[str, Any]:
    """A committed result."""
    fields: dict[str, Any] = json.loads((RESULTS / name).read_text())
    return fields


def render(page: Path) -> str:
    """A page with its results section written anew."""
    head, _, rest = page.read_text().partition(START)
    comment, _, rest = rest.partition("\n")
    _, _, tail = rest.partition(END)
    parts = {
        README: (_parity_lines, _interop_lines, _exactness_line, _quantization_lines, _generation_lines, _memory_lines),
        GPU_PAGE: (_gpu_lines,),
        EXACTNESS_PAGE: (_count_lines, _cost_lines, _generation_cost_lines, _emulated_lines, _outlier_lines),
        SERVING_PAGE: (_serve_lines,),
    }
    section = "\n\n".join("\n".join(lines()) for lines in parts[page])
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
    timed = {row["variant"]: row for row in result["speed"]["variants"]}
    rows = []
    for row in result["quality"]["variants"]:
        measured = timed.get(row["variant"], {}).get("speedups")
        machine = timed.get(row["variant"], {}).get("machine")
        cells = [
            row["variant"] + (f" (speed: {_processor(machine)})" if machine else ""),
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
        f"interleaved rounds, median and range of the rounds' ratios; {_processor(result['speed']['machine'])}:",
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
        f"{_processor(result['machine'])}:",
        "",
        "| variant | what the loop adds to a decode step | tokens per second of eight rows, relative to one row "
        "| speed-up of prompt-lookup on an edit that repeats its prompt | speed-up when its drafts fail "
        f"| time to first token of a new turn with {tokens:,} cached tokens, relative to reading them again |",
        "|---|---|---|---|---|---|",
        *rows,
    ]


def _ratio(compared: dict[str, Any]) -> str:
    return shown_ratio(compared["speedup"], compared["noise"])


def _processor(machine: dict[str, Any]) -> str:
    features = [name for name, is_there in machine["features"].items() if is_there]
    vnni = "with VNNI" if any("vnni" in name for name in features) else "no VNNI"
    return f"{machine['cores']} cores, {machine['processor']} ({', '.join(features)}; {vnni})"


def _exactness_line() -> list[str]:
    counts = load("exactness.json")["counts"]
    exact = [changes for scheme in counts["schemes"].values() for changes in _changes(scheme["exact"])]
    plain = {name: sum(_changes(scheme["plain"])) for name, scheme in counts["schemes"].items()}
    listed = "; ".join(f"{name}: {changed}" for name, changed in plain.items())
    ways = len(_changes(next(iter(counts["schemes"].values()))["plain"]))
    return [
        "Bit for bit: with [exact steps](docs/exactness.md), batches, drafts, sessions and chunks changed "
        f"{sum(exact)} of {len(exact) * counts['num_completions']:,} completions, in every scheme together. Without "
        f"them, of {ways * counts['num_completions']} each: {listed}. Measured on one machine, "
        f"{_processor(counts['machine'])}; every bundle is probed on the machine at hand."
    ]


def _changes(counted: dict[str, Any]) -> list[int]:
    found = [ways for ways in counted.values() if isinstance(ways, dict)]
    return [counts["changed"] for ways in found for counts in ways.values()]


def _count_lines() -> list[str]:
    counts = load("exactness.json")["counts"]
    ways = list(next(iter(counts["schemes"].values()))["plain"]["greedy"])
    rows = []
    for name, scheme in counts["schemes"].items():
        for kind, label in (("plain", "plain steps"), ("exact", "exact steps")):
            counted = scheme[kind]
            choices = [choice for choice, found in counted.items() if isinstance(found, dict)]
            cells = [" / ".join(str(counted[choice][way]["changed"]) for choice in choices) for way in ways]
            ties = sum(counted[choice][way]["near_ties"] for choice in choices for way in ways)
            told = f"{ties} of {sum(_changes(counted))}"
            rows.append(f"| {name} | {label} | {counted['step_noise']:.1e} | {' | '.join(cells)} | {told} |")
    return [
        f"Completions of {counts['num_completions']} that differ from each prompt completed alone, greedy / sampled at "
        f"temperature 0.8 with a seed, {counts['new_tokens']} tokens each, the trained checkpoint; "
        f"{_processor(counts['machine'])}:",
        "",
        f"| scheme | steps | largest difference of a logit in the probe | {' | '.join(ways)} | near ties |",
        f"|---|---|---|{'---|' * (len(ways) + 1)}",
        *rows,
    ]


def _cost_lines() -> list[str]:
    cost = load("exactness.json")["cost"]
    rows = []
    for name, fields in cost.items():
        if name == "machine":
            continue
        cells = []
        for figure in ("prefill", "prefill_1024", "decode", "decode_8_rows"):
            shown = f"{fields[f'{figure}_ms']['median']:.0f} ms"
            if f"{figure}_cost" in fields:
                low, *_, high = fields[f"{figure}_cost"]
                middle = fields[f"{figure}_cost"][len(fields[f"{figure}_cost"]) // 2]
                shown += f" ({middle:+.0%}, {low:+.0%} to {high:+.0%})"
            cells.append(shown)
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return [
        "The cost on the 350M shape: median of interleaved rounds; in brackets against plain steps of the same round, "
        f"median and range; {_processor(cost['machine'])}:",
        "",
        "| scheme | prefill of 128 tokens | of 1,024 | decode step | decode step of 8 rows |",
        "|---|---|---|---|---|",
        *rows,
    ]


def _generation_cost_lines() -> list[str]:
    measured = load("exactness.json")["generate"]
    rows = []
    for name, fields in measured["schemes"].items():
        cells = [f"{fields[side]['milliseconds_per_token']['median']:.2f} ms" for side in fields]
        ratios = [shown_ratio(fields[side]["speedup"], fields[side]["noise"]) for side in list(fields)[1:]]
        shown = [cells[0], *(f"{cell} ({ratio})" for cell, ratio in zip(cells[1:], ratios, strict=True))]
        rows.append(f"| {name} | {' | '.join(shown)} |")
    sides = list(next(iter(measured["schemes"].values())))
    return [
        f"Generation with the trained checkpoint, {measured['num_prompts']} programs, {measured['new_tokens']} tokens "
        "each, per token; in brackets against plain steps of the same round. A lone row's step takes a looked-up token "
        f"along where exact steps need a second token; {_processor(measured['machine'])}:",
        "",
        f"| scheme | {' | '.join(sides)} |",
        f"|---|{'---|' * len(sides)}",
        *rows,
    ]


def _emulated_lines() -> list[str]:
    processors = load("exactness_emulated.json")["processors"]
    rows = [
        f"| {each['features']} | {name} | {found['plain']:.1e} | {found['exact']} |"
        for each in processors.values()
        for name, found in each["bundles"].items()
    ]
    return [
        "The probe on small bundles under an emulator of other processors (qemu; benchmarks/emulated.py):",
        "",
        "| processor | scheme | largest difference of a logit, plain steps | exact steps |",
        "|---|---|---|---|",
        *rows,
    ]


def _outlier_lines() -> list[str]:
    rows = [
        f"| {row['outliers']}x | {row['scheme']} | {row['mean_kl']:.1e} "
        f"{shown_interval(row['mean_kl_interval'], '.1e')} | {row['top1_agreement']:.1%} |"
        for row in load("outliers.json")["rows"]
    ]
    return [
        "Against float32 on the 350M shape with random weights, of which a few channels of each layer's input are "
        "scaled up (benchmarks/outliers.py; 95% interval over programs):",
        "",
        "| outlier channels | scheme | KL divergence, nats per token | same likeliest token |",
        "|---|---|---|---|",
        *rows,
    ]


def _serve_lines() -> list[str]:
    result = load("serve.json")
    rows = []

    def add(what: str, wanted: str, found: dict[str, float] | None, form: str) -> None:
        if found is not None:
            low, high = (form.format(found[each]) for each in ("low", "high"))
            rows.append(f"| {what} | {wanted} | {form.format(found['median'])} ({low} to {high}) |")

    throughput, join, prefix = (result.get(part, {}) for part in ("throughput", "join", "prefix"))
    cancel, overload, equality = (result.get(part, {}) for part in ("cancel", "overload", "equality"))
    add("1 client against in process", ">= 0.95x", throughput.get("one_client_against_in_process"), "{:.2f}x")
    add("8 clients against 1", ">= 1.9x", throughput.get("eight_against_one"), "{:.2f}x")
    add("32 clients on 8 slots against 8", ">= 0.95x", throughput.get("thirty_two_against_eight"), "{:.2f}x")
    add("p95 between tokens of 4 while 1,024 are read", "<= 2x", join.get("joined_against_steady"), "{:.2f}x")
    add("longest gap of the four", "<= 250 ms", join.get("longest_gap_ms"), "{:.0f} ms")
    add("first token, 1,024 tokens known, against cold", "<= 0.10x", prefix.get("share"), "{:.2f}x")
    for phase in ("decoding", "prefilling", "queued"):
        add(f"slot free after a disconnect, {phase}", "", cancel.get(f"{phase}_ms"), "{:.0f} ms")
    if overload:
        rows.append(f"| 429 under overload, p99 | <= 50 ms | {overload['refused_p99_ms']:.0f} ms |")
        rows.append(f"| /health under overload, p99 | < 100 ms | {overload['health_p99_ms']:.0f} ms |")
    if equality:
        rows.append(
            f"| completions that differ from in process | 0 | {equality['changed']} of {equality['compared']} |"
        )
    return [
        f"The 350M shape in int8, exact steps, {result['shape']['slots']} slots; server and clients on one machine, "
        f"{_processor(result['machine'])}; median and range of {result['shape']['rounds']} rounds "
        "(benchmarks/serve.py):",
        "",
        "| what | aim | measured |",
        "|---|---|---|",
        *rows,
    ]


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
