"""lm-eval on a bundle, beside transformers: python -m benchmarks.lm_eval --python INTERPRETER [--way server|class].

Two ways lead there. "server": the log-likelihood of a continuation as lm-eval's `local-completions` reads it from
/v1/completions (echo, logprobs). "class": lm-eval's own tasks on our model class, without a server. Both are compared
with transformers. lm-eval lives in an environment of its own: `pip install "lm-eval[api]"`; for the class it also
needs numpy, tokenizers, packaging, onnxruntime, onnx-ir, torch and transformers. codegen-edge is taken from here.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import click
import torch

import codegen_edge
from benchmarks.machine import describe_machine
from benchmarks.serve import start_server
from codegen_edge.bundle import Bundle
from codegen_edge.checkpoints.corpora import load_corpus
from codegen_edge.exporter import load_reference_model, locate_checkpoint, open_checkpoint
from codegen_edge.tokenizer import Tokenizer

RESULTS = Path(__file__).parent / "results"
SERVER_CLIENT = Path(__file__).parent / "interop" / "lm_eval_client.py"
CLASS_CLIENT = Path(__file__).parent / "interop" / "lm_eval_class_client.py"
WAYS = {
    "batch size 1": {"batch_size": 1, "threads": 1},
    "batch size 8": {"batch_size": 8, "threads": 1},
    "batch size 8, exact steps": {"batch_size": 8, "threads": 1, "exact_steps": True},
}
CHECKPOINT = "codegen-5M-mono"
NUM_PAIRS, CONTEXT, CONTINUATION = 24, 300, 60  # characters
NUM_DOCUMENTS = 16  # of the class's tasks
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


def ask(interpreter: Path, client: Path, job: dict[str, Any]) -> dict[str, Any]:
    """Run a client in lm-eval's interpreter, on this codegen-edge; the last line that it prints."""
    home = str(Path(codegen_edge.__file__).parents[1])
    done = subprocess.run(
        [interpreter, client],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": home},
    )
    if done.returncode:
        raise click.ClickException(done.stderr[-2000:])
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def through_server(interpreter: Path, bundle: Bundle) -> dict[str, Any]:
    """Log-likelihoods of lm-eval's client of a server."""
    tokenizer = Tokenizer(bundle.tokenizer_path)
    pairs = pairs_of(tokenizer)
    with start_server(bundle.path) as (url, _):
        job = {
            "url": f"{url}/v1/completions",
            "model": "bundle",
            "tokenizer": str(bundle.tokenizer_path.parent),
            "pairs": pairs,
        }
        answer = ask(interpreter, SERVER_CLIENT, job)
    expected = reference(tokenizer, pairs)
    differences = [
        abs(found[0] - total) / tokens for found, (total, tokens) in zip(answer["results"], expected, strict=True)
    ]
    return {
        "versions": answer["versions"],
        "continuations": len(pairs),
        "tokens": sum(tokens for _, tokens in expected),
        "largest_difference_per_token": max(differences),
        "limit": LIMIT_PER_TOKEN,
        "is_within": max(differences) <= LIMIT_PER_TOKEN,
    }


def through_class(interpreter: Path, bundle: Bundle) -> dict[str, Any]:
    """lm-eval's tasks on the model class."""
    job = {
        "bundle": str(bundle.path),
        "checkpoint": str(locate_checkpoint(CHECKPOINT).folder),
        "documents": [[file.path, file.text] for file in load_corpus("held-out")[:NUM_DOCUMENTS]],
        "ways": WAYS,
    }
    answer = ask(interpreter, CLASS_CLIENT, job)
    ways = answer["ways"].values()
    return answer | {"limit": LIMIT_PER_TOKEN, "is_within": all(way["is_within"] for way in ways)}


@click.command()
@click.option("--python", "interpreter", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--way", type=click.Choice(["server", "class"]), multiple=True, default=["server", "class"])
def main(interpreter: Path, way: tuple[str, ...]) -> None:
    """Write benchmarks/results/lm_eval.json (server) and lm_eval_class.json."""
    kinds = {"server": (through_server, "lm_eval.json"), "class": (through_class, "lm_eval_class.json")}
    with tempfile.TemporaryDirectory(prefix="codegen-edge-lm-eval-") as folder:
        bundle = codegen_edge.export(CHECKPOINT, Path(folder) / "bundle", verify=False).bundle
        for name in way:
            measure, file = kinds[name]
            result = {"machine": describe_machine(), **measure(interpreter, bundle)}
            (RESULTS / file).write_text(json.dumps(result, indent=2) + "\n")
            click.echo(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
