"""How often what the trained checkpoint writes is a start of Python: python -m benchmarks.parse_rate."""

from __future__ import annotations

import ast
import codeop
import json
import tempfile
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import describe_machine
from codegen_edge import load_model
from codegen_edge.exporter import export_checkpoint, locate_checkpoint
from codegen_edge.tokenizer import END_OF_TEXT

RESULT = Path(__file__).parent / "results" / "parse_rate.json"
CHECKPOINT, MAX_NEW_TOKENS = "codegen-5M-mono", 128
# Alone, and behind the beginning of a file.
PROMPTS = ("def ", '<|endoftext|>"""A module."""\n\nimport os\n\n\ndef ')
SEEDS = range(20)
TEMPERATURES = (0.2, 0.6, 0.8, 1.0)
TOP_P = 0.95


def is_start_of_python(text: str) -> bool:
    """Whether every whole line of `text` is Python so far; the last line may have been cut anywhere."""
    whole = text[: text.rfind("\n") + 1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # "\d" in a string that is no raw one
        try:
            ast.parse(whole)
        except (SyntaxError, ValueError):
            pass
        else:
            return "\n" in text
        try:
            return codeop.compile_command(whole, symbol="exec") is None  # None: not wrong, only not at an end
        except (SyntaxError, ValueError, OverflowError):
            return False


def measure(folder: Path) -> list[dict[str, Any]]:
    """Generate with every seed at every temperature."""
    bundle = export_checkpoint(locate_checkpoint(CHECKPOINT), folder / "bundle")
    rows = []
    with load_model(bundle.path) as model:
        for prompt, temperature in product(PROMPTS, TEMPERATURES):
            texts = [
                prompt.removeprefix(END_OF_TEXT)
                + model.generate(
                    prompt, max_new_tokens=MAX_NEW_TOKENS, temperature=temperature, top_p=TOP_P, seed=seed
                ).text
                for seed in SEEDS
            ]
            accepted = [is_start_of_python(text) for text in texts]
            rows.append(
                {
                    "prompt": prompt,
                    "temperature": temperature,
                    "top_p": TOP_P,
                    "seeds": len(SEEDS),
                    "accepted": sum(accepted),
                    "distinct": len(set(texts)),
                    "refused_seeds": [
                        seed for seed, is_accepted in zip(SEEDS, accepted, strict=True) if not is_accepted
                    ],
                    "first_text": texts[0],
                }
            )
            click.echo(f"{prompt!r}, temperature {temperature}: {sum(accepted)} of {len(SEEDS)}")
    return rows


@click.command()
def main() -> None:
    """Write benchmarks/results/parse_rate.json."""
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent.parent, prefix=".demo-") as folder:
        rows = measure(Path(folder))
    result = {"machine": describe_machine(), "max_new_tokens": MAX_NEW_TOKENS, "runs": rows}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
