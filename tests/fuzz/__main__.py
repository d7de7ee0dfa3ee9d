"""`python -m tests.fuzz`: try mutants, print the counts, exit with 1 where one ended badly."""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from codegen_edge.dependencies import package_versions
from tests.fuzz.fuzzing import Result, fuzz
from tests.fuzz.originals import make_originals
from tests.fuzz.subjects import Subject, subjects

_LIBRARIES = ("codegen-edge", "onnxruntime", "onnx", "onnx-ir", "tokenizers", "safetensors", "torch", "starlette")
_MOST_SHOWN = 20


def main() -> int:
    """Run the command."""
    options = _parsed()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    chosen = [each for each in subjects() if any(word in each.name for word in options.only.split(","))]
    if not chosen:
        print(f"nothing is called {options.only!r}; there are: {', '.join(each.name for each in subjects())}")
        return 2
    _import_what_is_needed(chosen)
    seed = secrets.randbelow(1 << 32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    work = options.work or Path(tempfile.mkdtemp(prefix="codegen-edge-fuzz-"))
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        originals = make_originals(Path(folder), checkpoint=options.checkpoint, bundle=options.bundle)
        result = fuzz(
            originals,
            chosen,
            work,
            seed=seed,
            mutants=options.mutants,
            seconds=options.seconds,
            first=options.first,
        )
    _print(result)
    if options.json is not None:
        options.json.write_text(json.dumps(_as_json(result), indent=1) + "\n")
    if not result.failures and options.work is None:
        shutil.rmtree(work)
    return 1 if result.failures else 0


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--mutants", type=int, default=10_000, help="try so many (%(default)s)")
    parser.add_argument("--seconds", type=float, default=3600.0, help="stop after so long (%(default)s)")
    parser.add_argument("--seed", type=int, help="of all mutants; a random one by default")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant, to make one again")
    parser.add_argument("--only", default="", help="parts of subjects' names, with commas between them")
    parser.add_argument("--json", type=Path, help="write the counts to this file")
    parser.add_argument("--work", type=Path, help="folder for mutants; those that end badly stay in its `failures`")
    parser.add_argument("--checkpoint", type=Path, help="alter this one instead of a random one")
    parser.add_argument("--bundle", type=Path, help="alter this one instead of the checkpoint's export")
    return parser.parse_args()


def _import_what_is_needed(chosen: list[Subject]) -> None:
    """Once, here, instead of in every child."""
    import onnxruntime  # noqa: F401

    import codegen_edge.generation.model
    import codegen_edge.runtimes.backends.ort_cpu
    import codegen_edge.server.http

    if any(each.name.startswith("checkpoint") for each in chosen):
        import torch

        import codegen_edge.exporter.checkpoint

        torch.set_num_threads(1)
    if any("quantized" in each.name for each in chosen):
        import codegen_edge.quantization  # noqa: F401


def _print(result: Result) -> None:
    width = max(map(len, result.outcomes), default=0)
    for name, counts in sorted(result.outcomes.items()):
        print(f"{name:<{width}}  {', '.join(f'{count} {outcome}' for outcome, count in counts.most_common())}")
    print(f"{result.mutants} mutants in {result.seconds:.0f} s, {len(result.failures)} ended badly")
    for failure in result.failures[:_MOST_SHOWN]:
        words = " ".join(failure.words.split())[:300]
        print(f"{failure.subject}, number {failure.number}: {failure.outcome}: {words}\n  kept in {failure.kept}")


def _as_json(result: Result) -> dict[str, Any]:
    return {
        "seed": result.seed,
        "mutants": result.mutants,
        "seconds": round(result.seconds, 1),
        "outcomes": {name: dict(counts) for name, counts in sorted(result.outcomes.items())},
        "failures": [
            {"number": each.number, "subject": each.subject, "outcome": each.outcome, "words": each.words[:500]}
            for each in result.failures
        ],
        "versions": package_versions(*_LIBRARIES),
    }


if __name__ == "__main__":
    sys.exit(main())
