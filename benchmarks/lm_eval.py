"""lm-eval against a server of ours, beside transformers: python -m benchmarks.lm_eval --python INTERPRETER.

The log-likelihood of a continuation as lm-eval's `local-completions` reads it from /v1/completions (echo, logprobs)
is compared with transformers' own. lm-eval lives in an environment of its own: `pip install "lm-eval[api]"`.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import click
import torch

import codegen_edge
from benchmarks.machine import describe_machine
from benchmarks.serve import start_server
from codegen_edge.checkpoints.corpora import load_corpus
from codegen_edge.exporter import load_reference_model, locate_checkpoint, open_checkpoint
from codegen_edge.tokenizer import Tokenizer

RESULT = Path(__file__).parent / "results" / "lm_eval.json"
CLIENT = Path(__file__).parent / "interop" / "lm_eval_client.py"
CHECKPOINT = "codegen-5M-mono"
NUM_PAIRS, CONTEXT, CONTINUATION = 24, 300, 60  # characters
LIMIT_PER_TOKEN = 1e-3


def pairs_of(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """Beginnings of programs and what follows, cut where a token ends."""
    pairs = []
    for file in load_corpus("held-out")[:NUM_PAIRS]:
        ids = tokenizer.encode(file.text[: CONTEXT + CONTINUATION])
        split = len(tokenizer.encode(file.text[:CONTEXT])) - 1
        # lm-eval counts the spaces at a context's end to the continuation, which may then be no tokens of its own.
        while tokenizer.decode(ids[:split])[-1].isspace():
            split -= 1
        pairs.append((tokenizer.decode(ids[:split]), tokenizer.decode(ids[split:])))
    return pairs


def reference(tokenizer: Tokenizer, pairs: list[tuple[str, str]]) -> list[tuple[float, int]]:
    """transformers' log-likelihood of each continuation, and its tokens; split as lm-eval splits them."""
    model = load_reference_model(open_checkpoint(locate_checkpoint(CHECKPOINT).folder))
    found = []
    for context, continuation in pairs:
        whole, start = tokenizer.encode(context + continuation), len(tokenizer.encode(context))
        with torch.no_grad():
            logprobs = torch.log_softmax(model(torch.tensor([whole])).logits[0].double(), dim=-1)
        total = sum(float(logprobs[place - 1, whole[place]]) for place in range(start, len(whole)))
        found.append((total, len(whole) - start))
    return found


@click.command()
@click.option("--python", "interpreter", required=True, type=click.Path(exists=True, path_type=Path))
def main(interpreter: Path) -> None:
    """Write benchmarks/results/lm_eval.json."""
    with tempfile.TemporaryDirectory(prefix="codegen-edge-lm-eval-") as folder:
        bundle = codegen_edge.export(CHECKPOINT, Path(folder) / "bundle", verify=False).bundle
        tokenizer = Tokenizer(bundle.tokenizer_path)
        pairs = pairs_of(tokenizer)
        with start_server(bundle.path) as (url, _):
            job = {
                "url": f"{url}/v1/completions",
                "model": "bundle",
                "tokenizer": str(bundle.tokenizer_path.parent),
                "pairs": pairs,
            }
            done = subprocess.run(
                [interpreter, CLIENT], input=json.dumps(job), capture_output=True, text=True, check=False
            )
        if done.returncode:
            raise click.ClickException(done.stderr[-2000:])
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    expected = reference(tokenizer, pairs)
    differences = [
        abs(found[0] - total) / tokens for found, (total, tokens) in zip(answer["results"], expected, strict=True)
    ]
    result = {
        "machine": describe_machine(),
        "versions": answer["versions"],
        "continuations": len(pairs),
        "tokens": sum(tokens for _, tokens in expected),
        "largest_difference_per_token": max(differences),
        "limit": LIMIT_PER_TOKEN,
        "is_within": max(differences) <= LIMIT_PER_TOKEN,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    click.echo(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
