"""Where a step's time goes, by operator: python -m benchmarks.micro [BUNDLE].

ONNX Runtime's own profiler counts the kernels of a step of one row, of eight rows, and of eight tokens of one row, with
plain and with exact steps, on the 350M shape in int8. Profiling slows a step down a little; the shares are what counts.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime

import codegen_edge
from benchmarks.machine import describe_machine
from benchmarks.random_checkpoint import TEXTS
from codegen_edge.bundle import Bundle, open_bundle
from codegen_edge.exporter.random_checkpoint import SHAPES, write_random_checkpoint
from codegen_edge.runtimes import open_runtime

RESULT = Path(__file__).parent / "results" / "micro.json"
CACHED, CAPACITY, STEPS = 128, 512, 16
# rows, tokens of each, exact steps
CASES = ((1, 1, False), (1, 1, True), (1, 8, False), (8, 1, False), (8, 1, True))


def profiled_step(bundle: Bundle, folder: Path, rows: int, tokens: int, *, is_exact: bool) -> dict[str, Any]:
    """Milliseconds of a step, by operator; the LM head apart from the other products."""
    plain_options = onnxruntime.SessionOptions

    class Profiling(plain_options):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__()
            self.enable_profiling = True
            self.profile_file_prefix = str(folder / "profile")

    onnxruntime.SessionOptions = Profiling
    try:
        runtime: Any = open_runtime("cpu", bundle, exact_steps=is_exact or None)
    finally:
        onnxruntime.SessionOptions = plain_options
    ids = np.random.default_rng(0).integers(0, 1000, (rows, CACHED))
    cache = runtime.new_cache(rows, CAPACITY)
    runtime.step(ids, cache)
    seconds = []
    for _ in range(STEPS):
        started_at = time.perf_counter()
        runtime.step(ids[:, :tokens], cache)
        seconds.append(time.perf_counter() - started_at)
    events = json.loads(Path(runtime._session.end_profiling()).read_text())
    runtime.close()
    runs = sorted((event for event in events if event["name"] == "model_run"), key=lambda event: event["ts"])
    first = runs[-STEPS]["ts"]
    by_operator: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time") and event["ts"] >= first:
            operator = "LM head" if "lm_head" in event["name"] else event["args"]["op_name"]
            by_operator[operator] += event["dur"] / 1000 / STEPS
    return {
        "rows": rows,
        "tokens": tokens,
        "exact_steps": is_exact,
        "step_ms": round(1000 * float(np.median(seconds)), 2),
        "operators_ms": {name: round(spent, 2) for name, spent in by_operator.most_common(8)},
    }


@click.command()
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
def main(bundle: Path | None) -> None:
    """Write benchmarks/results/micro.json; BUNDLE instead of a fresh one of the 350M shape."""
    with tempfile.TemporaryDirectory(prefix="codegen-edge-micro-") as name:
        folder = Path(name)
        if bundle is None:
            write_random_checkpoint(folder / "checkpoint", SHAPES["350M"], texts=TEXTS)
            plain = codegen_edge.export(folder / "checkpoint", folder / "fp32", verify=False).bundle
            made = codegen_edge.quantize(plain, folder / "int8", scheme="int8", method="round", measure_tokens=0)
            bundle = made.bundle.path
        opened = open_bundle(bundle, check="size")
        cases = []
        for rows, tokens, is_exact in CASES:
            cases.append(profiled_step(opened, folder, rows, tokens, is_exact=is_exact))
            click.echo(json.dumps(cases[-1]))
    result = {"machine": describe_machine(), "cached_tokens": CACHED, "cases": cases}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
