"""The server, and where a step's time goes."""

from __future__ import annotations

from benchmarks.tables.common import load, processor


def serve_lines() -> list[str]:
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
        f"{processor(result['machine'])}; median and range of {result['shape']['rounds']} rounds "
        "(benchmarks/serve.py):",
        "",
        "| what | aim | measured |",
        "|---|---|---|",
        *rows,
    ]


def kernel_lines() -> list[str]:
    result = load("micro.json")
    names = list(dict.fromkeys(name for case in result["cases"] for name in list(case["operators_ms"])[:4]))
    rows = []
    for case in result["cases"]:
        spent = case["operators_ms"]
        what = f"{case['rows']} row{'s' if case['rows'] > 1 else ''} of {case['tokens']}"
        kind = "exact" if case["exact_steps"] else "plain"
        rest = sum(value for name, value in spent.items() if name not in names)
        cells = [f"{spent.get(name, 0):.1f}" for name in names]
        rows.append(f"| {what} | {kind} | {case['step_ms']:.1f} | {' | '.join(cells)} | {rest:.1f} |")
    return [
        f"Milliseconds of a step after {result['cached_tokens']} tokens, the 350M shape in int8; "
        f"{processor(result['machine'])}:",
        "",
        f"| tokens | steps | the step | {' | '.join(names)} | other kernels |",
        f"|---|---|---|{'---|' * len(names)}---|",
        *rows,
    ]
