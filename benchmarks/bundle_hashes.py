"""Whether a change of the code changes what it makes: python -m benchmarks.bundle_hashes [--compare].

Exports and quantizes the checkpoint that ships in every way that needs no GPU, and keeps the sha256 of every graph and
data file and 48 greedy tokens of each bundle that generates. With --compare it writes nothing and exits with 1 where
something differs from the committed result. The graph's bytes depend on the versions that traced it, the tokens on the
processor's kernels; both are in the result.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

import codegen_edge
from benchmarks.machine import describe_machine
from codegen_edge.bundle import Bundle, contract

RESULT = Path(__file__).parent / "results" / "bundle_hashes.json"
CHECKPOINT, PROMPT, NEW_TOKENS = "codegen-5M-mono", "def hello_world():", 48
QUANTIZED: dict[str, dict[str, Any]] = {
    "int8": {"scheme": "int8"},
    "int4": {"scheme": "int4"},
    "int8-dynamic": {"scheme": "int8-dynamic"},
    "fp16": {"scheme": "fp16"},
    "int8, int8 KV cache": {"scheme": "int8", "kv_cache": "int8"},
}


def make(folder: Path) -> dict[str, Bundle]:
    """Every bundle by what it is."""
    plain = codegen_edge.export(CHECKPOINT, folder / "fp32").bundle
    static = codegen_edge.export(CHECKPOINT, folder / "static", target="tensorrt").bundle
    made = {
        "fp32": plain,
        "static": static,
        "features": codegen_edge.export(CHECKPOINT, folder / "features", task="feature-extraction").bundle,
        "int8 in one pass": codegen_edge.export(CHECKPOINT, folder / "one", precision="int8", verify=False).bundle,
        "static int4": codegen_edge.quantize(
            static, folder / "static-int4", scheme="int4", method="round", measure_tokens=0
        ).bundle,
    }
    for name, options in QUANTIZED.items():
        made[name] = codegen_edge.quantize(plain, folder / name, measure_tokens=0, **options).bundle
    made["int4 in half precision"] = codegen_edge.build(made["int4"], folder / "half", runtime="cuda").bundle
    return made


def describe(bundle: Bundle) -> dict[str, Any]:
    """Hashes, and tokens where a CPU generates with the bundle."""
    files = bundle.manifest.files
    fields: dict[str, Any] = {
        "graph": files[contract.MODEL_FILE].sha256,
        "weights": files[contract.WEIGHTS_FILE].sha256,
    }
    if bundle.manifest.task == "text-generation" and bundle.manifest.compute == "fp32":
        runtime = "static-cpu" if bundle.manifest.target == "tensorrt" else "cpu"
        with codegen_edge.load_model(bundle.path, runtime=runtime) as model:
            fields["token_ids"] = list(model.generate(PROMPT, max_new_tokens=NEW_TOKENS).token_ids)
    return fields


@click.command()
@click.option("--compare", is_flag=True, help="With the committed result, instead of writing it.")
def main(compare: bool) -> None:
    """Write benchmarks/results/bundle_hashes.json, or compare with it."""
    with tempfile.TemporaryDirectory(prefix="codegen-edge-hashes-") as folder:
        found = {name: describe(bundle) for name, bundle in make(Path(folder)).items()}
    if not compare:
        RESULT.write_text(json.dumps({"machine": describe_machine(), "bundles": found}, indent=2) + "\n")
        return
    known = json.loads(RESULT.read_text())["bundles"]
    differing = [
        f"{name}: {field}"
        for name, fields in found.items()
        for field in fields
        if known.get(name, {}).get(field) != fields[field]
    ]
    click.echo("\n".join(differing) or f"{len(found)} bundles are what they were")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
