"""`python -m tests.chaos`: faults at every call that changes a disk; print the counts, exit with 1 after a failure."""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import errno
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from codegen_edge import open_bundle
from codegen_edge.bundle import Bundle
from codegen_edge.dependencies import package_versions
from codegen_edge.quantization import QuantizeOptions, quantize_bundle
from tests.chaos.faults import Tally, errors, full_disks, kills
from tests.chaos.scenarios import scenarios
from tests.chaos.swaps import swaps
from tests.fuzz.originals import make_originals

_CODES = (errno.ENOSPC, errno.EIO, errno.EACCES)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--step", type=int, default=1, help="try every so many-th point (%(default)s)")
    parser.add_argument("--loads", type=int, default=200, help="beside a writer (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the counts to this file")
    parser.add_argument("--bundle", type=Path, help="a small one in full precision, instead of a random one")
    options = parser.parse_args()
    started_at, found = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        bundle = options.bundle
        if bundle is None:
            (work / "originals").mkdir()
            bundle = make_originals(work / "originals").bundle
        for tally in tallies(open_bundle(bundle), work, options.step, options.loads):
            found.append(tally)
            counts = ", ".join(f"{count} {state}" for state, count in sorted(tally.counts.items()))
            print(f"{tally.scenario}, {tally.fault}: {counts}; {len(tally.failures)} failures", flush=True)
            for failure in tally.failures[:5]:
                print(f"  {failure[:300]}")
    seconds, num_failures = time.monotonic() - started_at, sum(len(tally.failures) for tally in found)
    print(f"{sum(sum(tally.counts.values()) for tally in found)} cases in {seconds:.0f} s, {num_failures} failures")
    if options.json is not None:
        options.json.write_text(json.dumps(_as_json(found, seconds), indent=1) + "\n")
    return 1 if num_failures else 0


def tallies(bundle: Bundle, work: Path, step: int, loads: int) -> Iterator[Tally]:
    """All scenarios under all faults, and readers beside a writer."""
    for scenario in scenarios(bundle, work):
        yield kills(scenario, work, step)
        for code in _CODES:
            for for_ever in (False, True):
                yield errors(scenario, work, step, code, for_ever=for_ever)
        yield full_disks(scenario, work, step)
    int8, _ = quantize_bundle(bundle, work / "int8", QuantizeOptions(scheme="int8"))
    (work / "swaps").mkdir()
    yield swaps(bundle, int8, work / "swaps", loads=loads)


def _as_json(found: list[Tally], seconds: float) -> dict[str, Any]:
    return {
        "seconds": round(seconds, 1),
        "cases": [
            {
                "scenario": each.scenario,
                "fault": each.fault,
                "counts": dict(sorted(each.counts.items())),
                "failures": each.failures,
            }
            for each in found
        ],
        "versions": package_versions("codegen-edge", "onnxruntime", "onnx-ir"),
    }


if __name__ == "__main__":
    sys.exit(main())
