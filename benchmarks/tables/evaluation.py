"""Tasks and metrics by precision, and the oracles of the harness."""

from __future__ import annotations

from typing import Any

from benchmarks.harness import shown_ratio
from benchmarks.tables.common import load, processor
from codegen_edge.evaluation.quality.intervals import shown_interval


def precision_lines() -> list[str]:
    result = load("evaluation.json")
    rows = []
    for name, fields in result["precisions"].items():
        perplexity, damage, agreement = fields["perplexity"], fields.get("damage"), fields.get("agreement")
        cells = [
            name,
            f"{perplexity['perplexity']:.3f}{shown_interval(perplexity['perplexity_interval'], '.3f')}",
            _compared(damage, "perplexity_loss", "perplexity_loss_interval", "+.2%"),
            _compared(damage, "top1_agreement", "top1_interval", ".1%"),
            _compared(agreement, "mean_equal_tokens", "mean_equal_interval", ".1f"),
            *(_score(fields[task]) for task in ("stdlib", "humaneval", "mtpb")),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    first = next(iter(result["precisions"].values()))
    counts = ", ".join(f"{first[task]['num_samples']} of {task}" for task in ("stdlib", "humaneval", "mtpb"))
    error = first["stdlib"]["standard_error"]
    return [
        f"The trained checkpoint (5M parameters; greedy; {counts}), each bundle against float32 text by text; in "
        "brackets 95% intervals over texts or problems. The standard error of stdlib's rate is "
        f"{100 * error:.1f} points. {processor(result['machine'])}:",
        "",
        "| precision | perplexity | change, paired | top-1 agreement | tokens before the first difference "
        "| stdlib, exact match | HumanEval pass@1 | MTPB pass rate |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
    ]


def oracle_lines() -> list[str]:
    result = load("evaluation.json")
    rows = [
        f"| {name} | {each['passed']} of {each['of']} | {each['seconds']:.0f} s | {each['sandbox']} |"
        for name, each in result["oracles"].items()
    ]
    return [
        f"The harness judges what is known to be right or wrong; {processor(result['machine'])}:",
        "",
        "| completions | passed | seconds in all | sandbox |",
        "|---|---|---|---|",
        *rows,
    ]


def equality_lines() -> list[str]:
    result = load("evaluation.json")["equality"]
    ways = list(next(iter(result["different"].values())))
    total = sum(sum(counts.values()) for counts in result["different"].values())
    return [
        f"Greedy samples of {result['completions']} problems in {', '.join(result['different'])}, computed as "
        f"{', '.join(ways)}: {total} differ from those of {ways[0]}."
    ]


def cache_lines() -> list[str]:
    result = load("evaluation.json")["caches"]
    shown = [
        f"{name}: {each['kept_seconds']['median']:.2f} s against {each['read_anew_seconds']['median']:.2f} s "
        f"({shown_ratio(each['speedup'], each['noise'])})"
        for name, each in result["bundles"].items()
    ]
    return [
        f"{result['conversations']} conversations of MTPB with {result['turns']} turns, with kept KV caches against "
        f"reading each turn's whole text anew, in interleaved rounds: {'; '.join(shown)}."
    ]


def _compared(fields: dict[str, Any] | None, name: str, interval: str, spec: str) -> str:
    return "" if fields is None else f"{fields[name]:{spec}}{shown_interval(fields[interval], spec)}"


def _score(fields: dict[str, Any]) -> str:
    (score, *_) = fields["scores"].values()
    return f"{score['value']:.1%}{shown_interval(score['interval'], '.1%')}"
