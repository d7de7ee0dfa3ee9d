"""What exact steps keep, and what they cost."""

from __future__ import annotations

import re
from typing import Any

from benchmarks.harness import shown_ratio
from benchmarks.tables.common import load, processor
from codegen_edge.evaluation.quality.intervals import shown_interval


def exactness_line() -> list[str]:
    counts = load("exactness.json")["counts"]
    exact = [changes for scheme in counts["schemes"].values() for changes in _changes(scheme["exact"])]
    plain = {name: sum(_changes(scheme["plain"])) for name, scheme in counts["schemes"].items()}
    listed = "; ".join(f"{name}: {changed}" for name, changed in plain.items())
    ways = len(_changes(next(iter(counts["schemes"].values()))["plain"]))
    return [
        "Bit for bit: with [exact steps](docs/exactness.md), batches, drafts, sessions and chunks changed "
        f"{sum(exact)} of {len(exact) * counts['num_completions']:,} completions, in every scheme together. Without "
        f"them, of {ways * counts['num_completions']} each: {listed}. Measured on one machine, "
        f"{processor(counts['machine'])}; every bundle is probed on the machine at hand."
    ]


def _changes(counted: dict[str, Any]) -> list[int]:
    found = [ways for ways in counted.values() if isinstance(ways, dict)]
    return [counts["changed"] for ways in found for counts in ways.values()]


def count_lines() -> list[str]:
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
        f"{processor(counts['machine'])}:",
        "",
        f"| scheme | steps | largest difference of a logit in the probe | {' | '.join(ways)} | near ties |",
        f"|---|---|---|{'---|' * (len(ways) + 1)}",
        *rows,
    ]


def cost_lines() -> list[str]:
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
        f"median and range; {processor(cost['machine'])}:",
        "",
        "| scheme | prefill of 128 tokens | of 1,024 | decode step | decode step of 8 rows |",
        "|---|---|---|---|---|",
        *rows,
    ]


def generation_cost_lines() -> list[str]:
    measured = load("exactness.json")["generate"]
    rows = []
    for name, fields in measured["schemes"].items():
        batch = {f"{measured['batch']} rows, {side}": each for side, each in measured["batches"][name].items()}
        cells = _compared_cells(fields) + _compared_cells(batch)
        rows.append(f"| {name} | {' | '.join(cells)} |")
    sides = [
        *next(iter(measured["schemes"].values())),
        *(f"{measured['batch']} rows, {side}" for side in next(iter(measured["batches"].values()))),
    ]
    return [
        f"Generation with the trained checkpoint, {measured['num_prompts']} programs, {measured['new_tokens']} tokens "
        "each, per token; in brackets against plain steps of the same round. With exact steps a row that is alone "
        "takes a looked-up token along where a second token is needed, and rows of a batch take some where that "
        f"pays; {processor(measured['machine'])}:",
        "",
        f"| scheme | {' | '.join(sides)} |",
        f"|---|{'---|' * len(sides)}",
        *rows,
    ]


def _compared_cells(fields: dict[str, Any]) -> list[str]:
    """The time per token of each side, from the second one on with its ratio to the first."""
    cells = [f"{each['milliseconds_per_token']['median']:.2f} ms" for each in fields.values()]
    ratios = [shown_ratio(each["speedup"], each["noise"]) for each in list(fields.values())[1:]]
    return [cells[0], *(f"{cell} ({ratio})" for cell, ratio in zip(cells[1:], ratios, strict=True))]


def emulated_lines() -> list[str]:
    processors = load("exactness_emulated.json")["processors"]
    rows = [
        f"| {each['features']} | {name} | {found['plain']:.1e} | {_short(found['exact'])} |"
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


def _short(outcome: str) -> str:
    difference = re.search(r"by up to (\S+)", outcome)
    return outcome if difference is None else f"refused: up to {difference[1]}"


def outlier_lines() -> list[str]:
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
