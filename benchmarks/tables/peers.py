"""Peers beside us: every system of a precision, and which targets were reached."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from benchmarks.harness import Spread, is_difference
from benchmarks.peers.measuring import COLD_START, PEAK_RSS, first_token, step
from benchmarks.peers.targets import NOT_MEASURED, TOO_NOISY, Judged, judge_targets, ratio_of
from benchmarks.peers.workload import Workload
from benchmarks.tables.common import load, nothing_yet, processor

_RESULT, _LARGE_RESULT = "peers.json", "peers-2B.json"
_MOST_COLUMNS = 4  # of workloads in one table


def peers_lines() -> list[str]:
    """The section of docs/performance.md."""
    if nothing := nothing_yet(_RESULT, "make peers bench-peers"):
        return nothing
    pictures = [
        "![Decode and prefill of every system](pictures/peers.svg)",
        "",
        "![Our bundles and the limits of the machine](pictures/roofline.svg)",
    ]
    return [*pictures, "", *lines_of(load(_RESULT))]


def large_peers_lines() -> list[str]:
    """The section about the 2B shape, for which there are no targets."""
    if nothing := nothing_yet(_LARGE_RESULT, "python -m benchmarks.peers --shape 2B --groups int8"):
        return nothing
    return system_lines(load(_LARGE_RESULT))


def speed_lines() -> list[str]:
    """The short form in README: the first workload of every precision."""
    result = load(_RESULT)
    workloads = {name: Workload.parse(group["workloads"][0]) for name, group in result["groups"].items()}
    (prompt_tokens,) = {each.prompt_tokens for each in workloads.values()}
    rows = []
    for precision, workload in workloads.items():
        for name, row in result["groups"][precision]["rows"].items():
            if _is_shown(row) and step(workload) in row["times"] and row["precision"] == precision:
                rows.append(f"| {' | '.join([name, *_short_cells(row, workload)])} |")
    return [
        f"Other programs on the same weights, token ids and threads: the {result['shape']} shape (random weights), a "
        f"prompt of {prompt_tokens} tokens, {result['rounds']} interleaved rounds in fresh processes, median "
        f"and range; {processor(result['machine'])}. Each precision is a run of its own: compare "
        "within it. Eight rows, a busy neighbour, versions, every target, missed ones "
        "too, are in [performance](docs/performance.md#peers-beside-us):",
        "",
        "| system | new tokens per second | time to first token | cold start to first token | peak memory |",
        "|---|---|---|---|---|",
        *rows,
        "",
        "![Decode and prefill of every system](docs/pictures/peers.svg)",
        "",
        "![Our bundles and the limits of the machine](docs/pictures/roofline.svg)",
    ]


def _short_cells(row: Mapping[str, Any], workload: Workload) -> list[str]:
    times = row["times"]
    rate = Spread.of([1 / seconds for seconds in times[step(workload)]])
    return [
        _range(rate),
        f"{1000 * Spread.of(times[first_token(workload)]).median:.0f} ms",
        f"{Spread.of(times[COLD_START]).median:.1f} s" if COLD_START in times else "",
        f"{Spread.of(times[PEAK_RSS]).median / 1e6:,.0f} MB" if PEAK_RSS in times else "",
    ]


def lines_of(result: Mapping[str, Any]) -> list[str]:
    """The tables of a result."""
    return [*system_lines(result), "", *_target_lines(result), "", *_peer_lines(result)]


def system_lines(result: Mapping[str, Any]) -> list[str]:
    """What every system did."""
    trial = "A trial with short workloads, no result. " if result["is_quick"] else ""
    lines = [
        f"{trial}The {result['shape']} shape, random weights, {result['threads']} threads, greedy; {result['rounds']} "
        f"interleaved rounds, every system in a fresh process, median and range; {processor(result['machine'])}. "
        "Each cell: new tokens per second of all rows; time to first token. Each table is a run of its own. "
        "`onnxruntime on our …` is the same graph without our generation loop.",
    ]
    for group in result["groups"].values():
        lines += ["", *_group_lines(group)]
    return lines


def _group_lines(group: Mapping[str, Any]) -> list[str]:
    workloads = [Workload.parse(text) for text in group["workloads"]]
    shown = {name: row for name, row in group["rows"].items() if _is_shown(row)}
    heads = ["ours decodes faster, of the first column", "cold start to first token", "peak memory", "equal tokens"]
    first, *others = (workloads[at : at + _MOST_COLUMNS] for at in range(0, len(workloads), _MOST_COLUMNS))
    lines = _table(
        [group["precision"], *map(_head, first), *heads],
        {name: [*_speeds(row, first), *_facts(row, group, workloads)] for name, row in shown.items()},
    )
    for each in others:
        some = {name: row for name, row in shown.items() if any(step(workload) in row["times"] for workload in each)}
        columns = {name: _speeds(row, each) for name, row in some.items()}
        lines += ["", *_table([group["precision"], *map(_head, each)], columns)]
    missing = [f"{name} ({_why_missing(row)})" for name, row in group["rows"].items() if _why_missing(row)]
    if missing:
        lines += ["", f"Not measured or void: {'; '.join(missing)}."]
    noise = [group["noise"][step(each)] for each in workloads if step(each) in group["noise"]]
    if noise:
        lines += ["", f"codegen-edge against itself, decode: at most {max(noise):.0%}."]
    if group["surroundings"]:
        lines += ["", f"The machine was not quiet: {'; '.join(group['surroundings'])}."]
    return lines


def _head(workload: Workload) -> str:
    rows = "" if workload.batch == 1 else f"{workload.batch} rows of "
    busy = {0: "", 1: ", one busy neighbour"}.get(workload.neighbours, f", {workload.neighbours} busy neighbours")
    return f"{rows}{workload.prompt_tokens:,} + {workload.new_tokens} tokens{busy}"


def _is_shown(row: Mapping[str, Any]) -> bool:
    return bool(row["times"]) and not row["void"]


def _why_missing(row: Mapping[str, Any]) -> str:
    errors = "; ".join(f"{name}: {why}" if name else why for name, why in row["errors"].items())
    why = row["skipped"] or (f"void, {row['void']}" if row["void"] else "") or errors
    return " ".join(why.replace("|", "\\|").split())


def _table(heads: list[str], rows: Mapping[str, list[str]]) -> list[str]:
    lines = [f"| {' | '.join([name, *cells])} |" for name, cells in rows.items()]
    return [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}", *lines]


def _speeds(row: Mapping[str, Any], workloads: list[Workload]) -> list[str]:
    times = row["times"]
    cells = []
    for each in workloads:
        if step(each) not in times:
            cells.append("")
            continue
        rate = Spread.of([each.batch / seconds for seconds in times[step(each)]])
        first = Spread.of(times[first_token(each)]).median
        cells.append(f"{_range(rate)}/s; {first:.2f} s" if first >= 1 else f"{_range(rate)}/s; {1000 * first:.0f} ms")
    return cells


def _facts(row: Mapping[str, Any], group: Mapping[str, Any], workloads: list[Workload]) -> list[str]:
    times = row["times"]
    cells = [_against_ours(row, group, workloads[0])]
    cells.append(f"{Spread.of(times[COLD_START]).median:.1f} s" if COLD_START in times else "")
    cells.append(f"{Spread.of(times[PEAK_RSS]).median / 1e6:,.0f} MB" if PEAK_RSS in times else "")
    tokens = row["tokens"].values()
    shown = f"{math.fsum(each['equal'] for each in tokens) / len(tokens):.0%}" if tokens else "not checked"
    cells.append(shown if all(each["is_deterministic"] for each in tokens) else f"{shown}, not the same in every round")
    return cells


def _against_ours(row: Mapping[str, Any], group: Mapping[str, Any], workload: Workload) -> str:
    figure = step(workload)
    ours = next(iter(group["rows"].values()))
    if row is ours or figure not in row["times"] or figure not in ours["times"] or figure not in group["noise"]:
        return ""
    ratio = ratio_of(row, ours, figure)
    return f"{_range(ratio, 2)}×" if is_difference(ratio, group["noise"][figure]) else "no difference"


def _target_lines(result: Mapping[str, Any]) -> list[str]:
    rows = []
    for each in judge_targets(result):
        bound = f"{'at most' if each.is_at_most else 'at least'} {each.wanted:g}"
        rows.append(f"| {each.what} | {each.ours} | {each.against} | {bound} | {_ratio(each)} | {_verdict(each)} |")
    return ["| target | ours | against | wanted | measured | verdict |", "|---|---|---|---|---|---|", *rows]


def _ratio(judged: Judged) -> str:
    return "" if judged.ratio is None else _range(judged.ratio, 2)


def _verdict(judged: Judged) -> str:
    if judged.verdict in (TOO_NOISY, NOT_MEASURED):
        return f"{judged.verdict}: {judged.why}" if judged.why else judged.verdict
    assert judged.ratio is not None
    if judged.why:
        return f"{judged.verdict} in every round, though {judged.why}"
    is_split = judged.ratio.low < judged.wanted < judged.ratio.high
    return f"{judged.verdict} in the median" if is_split else judged.verdict


def _range(spread: Spread, digits: int = 1) -> str:
    return f"{spread.median:.{digits}f} ({spread.low:.{digits}f}–{spread.high:.{digits}f})"


def _peer_lines(result: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, peer in result["peers"].items():
        versions = ", ".join(f"{package} {number}" for package, number in peer["versions"].items())
        removed = f"; removed after it: {', '.join(peer['uninstalls'])}" if peer["uninstalls"] else ""
        installs = "; ".join(f"`pip install {' '.join(packages)}`" for packages in peer["installs"])
        rows.append(f"| {name} | {versions or 'not measured'} | {installs}{removed} | {peer['needs']} |")
    return ["| environment | versions | installed by | needs |", "|---|---|---|---|", *rows]
