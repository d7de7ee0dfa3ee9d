"""The 350M shape proved: every logit of 64 cached steps, and 64 greedy tokens as transformers and others give them."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.machine import describe_machine
from benchmarks.random_checkpoint import TEXTS
from codegen_edge.bundle import Bundle
from codegen_edge.evaluation.parity.compare import DEFAULT_PROMPTS
from codegen_edge.evaluation.parity.verify import verify_bundle
from codegen_edge.exporter import (
    Checkpoint,
    export_checkpoint,
    load_reference_model,
    locate_checkpoint,
    open_checkpoint,
)
from codegen_edge.exporter.random_checkpoint import SHAPES, write_random_checkpoint
from codegen_edge.generation import GenerationLoop, GenerationParams
from codegen_edge.runtimes import open_runtime
from codegen_edge.tokenizer import Tokenizer

RESULT = Path(__file__).parent / "results" / "parity-350m.json"
NEW_TOKENS = 64


def transformers_tokens(checkpoint: Checkpoint, prompts: list[list[int]]) -> list[list[int]]:
    """Greedy continuations by transformers' own `generate`, each prompt alone."""
    model = load_reference_model(checkpoint)
    rows = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=checkpoint.model.eos_token_id,
        )
        rows.append(output[0, len(prompt) :].tolist())
    return rows


def loop_tokens(bundle: Bundle, batches: list[list[list[int]]]) -> list[list[int]]:
    """Greedy continuations by the cpu runtime, batch by batch."""
    runtime = open_runtime("cpu", bundle)
    rows: list[list[int]] = []
    for prompts in batches:
        tokens: dict[int, list[int]] = {row: [] for row in range(len(prompts))}
        for event in GenerationLoop(runtime, prompts, GenerationParams(max_new_tokens=NEW_TOKENS)):
            assert event.token_id is not None  # there is no deadline
            tokens[event.row].append(event.token_id)
        rows.extend(tokens.values())
    runtime.close()
    return rows


def genai_tokens(bundle: Bundle, prompts: list[list[int]]) -> list[list[int]]:
    """Greedy continuations by onnxruntime-genai on the bundle as it is."""
    import onnxruntime_genai as genai

    model = genai.Model(str(bundle.path))
    rows = []
    for prompt in prompts:
        params = genai.GeneratorParams(model)
        params.set_search_options(max_length=len(prompt) + NEW_TOKENS, do_sample=False)
        generator = genai.Generator(model, params)
        generator.append_tokens(prompt)
        while not generator.is_done():
            generator.generate_next_token()
        rows.append(generator.get_sequence(0).tolist()[len(prompt) :])
    return rows


def prove(folder: Path) -> dict[str, Any]:
    """Write the checkpoint, export it, and compare in every way; the result's fields."""
    write_random_checkpoint(folder / "checkpoint", SHAPES["350M"], texts=TEXTS)
    bundle = export_checkpoint(locate_checkpoint(str(folder / "checkpoint")), folder / "bundle")
    checkpoint = open_checkpoint(folder / "checkpoint")
    report = verify_bundle(bundle, checkpoint, num_steps=NEW_TOKENS)
    tokenizer = Tokenizer(bundle.tokenizer_path)
    prompts = [tokenizer.encode(prompt) for prompt in DEFAULT_PROMPTS]
    expected = transformers_tokens(checkpoint, prompts)
    return {
        "parity": report.to_dict(),
        "prompts": len(prompts),
        "new_tokens": NEW_TOKENS,
        "tokens_equal_transformers": {
            "cpu runtime, each prompt alone": loop_tokens(bundle, [[prompt] for prompt in prompts]) == expected,
            "cpu runtime, one ragged batch": loop_tokens(bundle, [prompts]) == expected,
            "onnxruntime-genai": genai_tokens(bundle, prompts) == expected,
        },
        "distinct_tokens_per_prompt": [len(set(row)) for row in expected],
    }


@click.command()
def main() -> None:
    """Write benchmarks/results/parity-350m.json; exit code 1 when anything differs."""
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent.parent, prefix=".demo-") as folder:
        result = prove(Path(folder))
    RESULT.write_text(json.dumps({"machine": describe_machine(), **result}, indent=2) + "\n")
    for comparison in result["parity"]["comparisons"]:
        click.echo(
            f"{comparison['scenario']}: max |difference| {comparison['max_abs_error']:.1e} "
            f"over {comparison['positions']} positions"
        )
    for client, is_equal in result["tokens_equal_transformers"].items():
        click.echo(f"{client}: {'equal' if is_equal else 'DIFFERENT'}")
    is_proved = result["parity"]["verdict"] == "equal" and all(result["tokens_equal_transformers"].values())
    sys.exit(0 if is_proved else 1)


if __name__ == "__main__":
    main()
