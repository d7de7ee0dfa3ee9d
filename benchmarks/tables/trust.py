"""What fuzzing, chaos and long runs found, as SECURITY.md says it."""

from __future__ import annotations

from collections import Counter

from benchmarks.tables.common import load


def trust_lines() -> list[str]:
    """A sentence for each result."""
    return [_fuzz_line(), _chaos_line(), _memory_line()]


def _fuzz_line() -> str:
    result = load("fuzz.json")
    outcomes: Counter[str] = Counter()
    for counts in result["outcomes"].values():
        outcomes.update(counts)
    shown = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.most_common())
    return (
        f"- `make fuzz`: {result['mutants']:,} mutants of checkpoints, bundles, sessions and requests in "
        f"{result['seconds'] / 60:.0f} minutes (seed {result['seed']}): {shown}; {len(result['failures'])} ended in a "
        "crash, a hang, a traceback, several lines or a text of altered weights."
    )


def _chaos_line() -> str:
    cases = load("chaos.json")["cases"]
    count = sum(sum(case["counts"].values()) for case in cases)
    failures = sum(len(case["failures"]) for case in cases)
    faults = ", ".join(dict.fromkeys(case["fault"].partition(",")[0] for case in cases))
    return (
        f"- `make chaos`: {count:,} cases ({faults}) at the calls that write a bundle, a verdict or a session; "
        f"{failures} left something lost or mixed."
    )


def _memory_line() -> str:
    result = load("steady.json")
    parts = [
        f"{part['count']:,} {name} changed the memory of the process by {part['growth']:+.2%}"
        for name, part in ((name, result[name]) for name in ("generations", "cancellations"))
    ]
    return f"- `make soak`: {' and '.join(parts)} over their second half, {result['scheme']}."
