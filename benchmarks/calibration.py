"""How much text GPTQ needs, on the checkpoint that ships: python -m benchmarks.calibration.

Each length is the beginning of the calibration text that ships; what it costs is measured on held-out programs.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click

import codegen_edge
from benchmarks.machine import describe_machine
from codegen_edge.bundle import Bundle
from codegen_edge.checkpoints.corpora import load_corpus
from codegen_edge.evaluation.quality.scoring import document_ids
from codegen_edge.tokenizer import Tokenizer

RESULT = Path(__file__).parent / "results" / "calibration.json"
CHECKPOINT = "codegen-5M-mono"
LENGTHS = (64, 1_024, 4_096, 8_192, 32_768)
MEASURE_TOKENS = 32_768


def beginning(tokenizer: Tokenizer, num_tokens: int) -> list[str]:
    """The first texts, the last one cut, that have about `num_tokens` tokens together."""
    texts: list[str] = []
    left = num_tokens
    for file in load_corpus("calibration"):
        ids = document_ids(tokenizer, file.text)
        if len(ids) >= left:
            return [*texts, tokenizer.decode(ids[1:left].tolist())]
        texts.append(file.text)
        left -= len(ids)
    raise ValueError(f"the corpus has fewer than {num_tokens} tokens")


def damage(bundle: Bundle, out: Path, **options: Any) -> dict[str, Any]:
    """What int4 does to the perplexity."""
    made = codegen_edge.quantize(bundle, out, scheme="int4", measure_tokens=MEASURE_TOKENS, **options)
    found = made.report.damage
    assert found is not None
    return {key: found[key] for key in ("num_tokens", "perplexity_loss", "perplexity_loss_interval")}


def main() -> None:
    """Measure and write benchmarks/results/calibration.json."""
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        bundle = codegen_edge.export(CHECKPOINT, Path(folder) / "fp32", verify=False).bundle
        tokenizer = Tokenizer(bundle.tokenizer_path)
        for length in LENGTHS:
            out = Path(folder) / str(length)
            rows[str(length)] = damage(bundle, out, method="gptq", calibration=beginning(tokenizer, length))
            click.echo(f"{length}: {rows[str(length)]}")
        for method in ("round", "search"):
            rows[method] = damage(bundle, Path(folder) / method, method=method)
            click.echo(f"{method}: {rows[method]}")
    RESULT.write_text(json.dumps({"machine": describe_machine(), "int4": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
