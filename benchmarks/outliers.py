"""What outlier channels do to 8-bit activations: python -m benchmarks.outliers.

Trained models of billions of parameters have a few channels whose activations are many times as large as the others'
(Dettmers et al., "LLM.int8()", 2022). The checkpoint that ships is too small to have them. So a random checkpoint of
the 350M shape is given some: six channels of every layer's normed input are scaled up. int8 takes one activation scale
for a block of channels, int8-dynamic one for all of a token; both are compared with float32 on held-out programs.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from safetensors.numpy import load_file, save_file

import codegen_edge
from benchmarks.machine import describe_machine
from benchmarks.random_checkpoint import TEXTS
from codegen_edge.checkpoints.corpora import load_corpus
from codegen_edge.evaluation.quality.damage import measure_damage
from codegen_edge.exporter.random_checkpoint import SHAPES, write_random_checkpoint

RESULT = Path(__file__).parent / "results" / "outliers.json"
SCALES = (1, 20)  # how many times as large
NUM_CHANNELS = 6
SCHEMES = ("int8", "int8-dynamic")
NUM_DOCUMENTS, CHARACTERS = 10, 160  # of programs' beginnings
# Sharp enough that the distributions are none of near equal likelihood, over which nothing could be measured.
INITIALIZER_RANGE = 0.05


def scale_channels(checkpoint: Path, times: float) -> None:
    """Make some channels of the input of every layer's matrices `times` as large."""
    for path in sorted(checkpoint.glob("*.safetensors")):
        tensors = {name: np.array(values) for name, values in load_file(path).items()}
        for name, values in tensors.items():
            if name.endswith(("ln_1.weight", "ln_1.bias")):
                values[np.random.default_rng(0).choice(len(values), NUM_CHANNELS, replace=False)] *= times
        save_file(tensors, path, metadata={"format": "pt"})


@click.command()
def main() -> None:
    """Write benchmarks/results/outliers.json."""
    texts = [file.text[:CHARACTERS] for file in load_corpus("held-out")][:NUM_DOCUMENTS]
    rows: list[dict[str, Any]] = []
    result = {"machine": describe_machine(), "channels": NUM_CHANNELS, "rows": rows}
    for times in SCALES:
        with tempfile.TemporaryDirectory(prefix="codegen-edge-outliers-") as name:
            folder = Path(name)
            shape = SHAPES["350M"]
            write_random_checkpoint(folder / "ck", shape, texts=TEXTS, initializer_range=INITIALIZER_RANGE)
            scale_channels(folder / "ck", times)
            plain = codegen_edge.export(folder / "ck", folder / "fp32", verify=False).bundle
            for scheme in SCHEMES:
                made = codegen_edge.quantize(plain, folder / scheme, scheme=scheme, measure_tokens=0).bundle
                with codegen_edge.load_model(plain.path) as reference, codegen_edge.load_model(made.path) as candidate:
                    damage = measure_damage(candidate.runtime, reference.runtime, reference.tokenizer, texts)
                rows.append({"outliers": times, "scheme": scheme, **damage.to_dict()})
                click.echo(f"{times}x, {scheme}: {damage.summary}")
                RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
