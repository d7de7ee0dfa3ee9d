"""Prove that other people's programs load a bundle unchanged and generate transformers' tokens from it.

A bundle promises to be more than our own format: onnxruntime-genai, optimum-onnx and transformers.js shall
open the folder as it is, by their normal loading call. Each client is a program of its own beside this file.
optimum-onnx, which wants transformers 4, and transformers.js have environments of their own, too.

A client reads a job on stdin: {"bundle": folder, "prompts": [[token id, ...], ...], "max_new_tokens": count}.
Its last line on stdout answers: {"versions": {package: version}, "token_ids": [[new token id, ...], ...]}.

The mask of the contract means right padding, so the clients, which pad on the left, run at batch size 1.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from codegen_edge.bundle import Bundle, open_bundle
from codegen_edge.errors import IntegrityError
from codegen_edge.exporter import export_checkpoint, load_reference_model, locate_checkpoint, open_checkpoint
from codegen_edge.exporter.random_checkpoint import ModelShape, write_random_checkpoint
from codegen_edge.tokenizer import END_OF_TEXT, Tokenizer

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAMS = Path(__file__).resolve().parent
ENVIRONMENTS = REPOSITORY / ".interop"
RESULTS = REPOSITORY / "benchmarks" / "results" / "interop.json"

SHAPE = ModelShape(n_layer=4, n_embd=256, n_head=4, rotary_dim=32, vocab_size=2048, n_positions=256)
# With these weights the reference names many different tokens, never the end of text, and each by a margin.
SEED = 2
INITIALIZER_RANGE = 0.1
# Logits of torch and onnxruntime differ by 1e-5 here; a margin near that would leave the token to rounding.
SMALLEST_MARGIN = 1e-3
MAX_NEW_TOKENS = 64
PROMPTS = (
    "\n",
    "def hello_world():\n    ",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n"
    "    def push(self, item):\n        self.items.append(item)\n\n    def pop(self):\n",
)

# torch first and by its version: the Makefile installs the same one.
OPTIMUM_PACKAGES = ("torch==2.13.0", "optimum-onnx[onnxruntime]==0.1.0")
NODE_PACKAGES = {"@huggingface/transformers": "4.3.1"}
CLIENT_LIMIT_S = 600  # a client needs seconds; the rest is for slow disks

TokenIds = list[list[int]]


class InteropError(Exception):
    """Nothing can be compared: a program is missing, or the checkpoint is no good for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A program that loads the bundle.

    Attributes:
        name: of the package that loads it.
        loading_call: by which it does so.
        program: the file beside this one.
        folder: where it is started; its environment.
        prepare: sets the environment up where it is missing, and gives the interpreter.
    """

    name: str
    loading_call: str
    program: str
    folder: Path
    prepare: Callable[[], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What transformers generates, and the least by which a best logit beat the second best."""

    token_ids: TokenIds
    smallest_margin: float


def is_sound(bundle: Bundle) -> bool:
    """Whether every file is as it was exported, and none was added beside the graph."""
    try:
        open_bundle(bundle.path)
    except IntegrityError:
        return False
    return True


def main() -> int:
    """Run every client, print a table, write the results; 0 if all generated the reference's tokens."""
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / "checkpoint"
        write_random_checkpoint(checkpoint, SHAPE, seed=SEED, texts=PROMPTS, initializer_range=INITIALIZER_RANGE)
        bundle = export_checkpoint(locate_checkpoint(str(checkpoint)), Path(scratch) / "bundle")
        tokenizer = Tokenizer(bundle.tokenizer_path)
        prompts = [tokenizer.encode(text) for text in PROMPTS]
        reference = generate_reference(checkpoint, prompts)
        outcomes = {client.name: outcome_of(client, bundle, prompts, reference) for client in CLIENTS}
        is_unchanged = is_sound(bundle)
    write_results(outcomes, prompts, reference, is_unchanged=is_unchanged)
    print_table(outcomes)
    if not is_unchanged:
        print("a client altered the bundle", file=sys.stderr)
    return 0 if is_unchanged and all(outcome["tokens_equal"] for outcome in outcomes.values()) else 1


def generate_reference(checkpoint: Path, prompts: TokenIds) -> Reference:
    """Generate greedily with transformers; raise InteropError where the tokens would prove little."""
    model = load_reference_model(open_checkpoint(checkpoint))
    token_ids, margins = [], []
    for prompt in prompts:
        input_ids = torch.tensor([prompt])
        generated = model.generate(
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            do_sample=False,
            max_new_tokens=MAX_NEW_TOKENS,
            return_dict_in_generate=True,
            output_logits=True,
        )
        token_ids.append(generated.sequences[0, len(prompt) :].tolist())
        best, second = torch.cat(generated.logits).topk(2).values.unbind(dim=-1)  # each [T]
        margins.append(float((best - second).min()))
    if any(len(new) < MAX_NEW_TOKENS or model.config.eos_token_id in new for new in token_ids):
        raise InteropError(f"the reference stopped at {END_OF_TEXT}; clients may cut there: take another SEED")
    if min(margins) < SMALLEST_MARGIN:
        raise InteropError(f"two logits are within {min(margins):.1e}, rounding may swap them: take another SEED")
    return Reference(token_ids=token_ids, smallest_margin=round(min(margins), 6))


def outcome_of(client: Client, bundle: Bundle, prompts: TokenIds, reference: Reference) -> dict[str, Any]:
    """What the results say of a client; `error` instead of versions where it failed."""
    outcome: dict[str, Any] = {"loading_call": client.loading_call, "tokens_equal": False}
    try:
        answer = run_client(client, bundle, prompts)
    except InteropError as exc:
        print(f"{client.name}: {exc}", file=sys.stderr)
        return outcome | {"error": "it failed; run benchmarks/interop/run.py to see why"}
    difference = first_difference(reference.token_ids, answer["token_ids"])
    return outcome | {
        "tokens_equal": difference is None,
        "first_difference": difference,
        "prompts": len(answer["token_ids"]),
        "tokens": sum(len(new) for new in answer["token_ids"]),
        "versions": answer["versions"],
    }


def run_client(client: Client, bundle: Bundle, prompts: TokenIds) -> dict[str, Any]:
    """Start a client's program on the bundle; raise InteropError with its last words where it fails."""
    command = [client.prepare(), str(PROGRAMS / client.program)]
    job = {"bundle": str(bundle.path), "prompts": prompts, "max_new_tokens": MAX_NEW_TOKENS}
    try:
        finished = subprocess.run(
            command,
            input=json.dumps(job),
            capture_output=True,
            text=True,
            check=True,
            cwd=client.folder,
            # All that is needed lies in the folder, and nothing points at it.
            env=os.environ | {"HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1"},
            timeout=CLIENT_LIMIT_S,
        )
        answer: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as exc:
        raise InteropError(f"{client.program} ended with {exc.returncode}:\n{exc.stderr}") from exc
    except subprocess.TimeoutExpired as exc:
        raise InteropError(f"{client.program} did not end within {CLIENT_LIMIT_S} s") from exc
    except (IndexError, json.JSONDecodeError) as exc:
        raise InteropError(f"{client.program} gave no answer:\n{finished.stdout}{finished.stderr}") from exc
    return answer


def first_difference(wanted: TokenIds, found: TokenIds) -> dict[str, int | None] | None:
    """The first prompt and step at which two generations part, or None; a missing token is None."""
    for prompt in range(max(len(wanted), len(found))):
        left = wanted[prompt] if prompt < len(wanted) else []
        right = found[prompt] if prompt < len(found) else []
        for step in range(max(len(left), len(right))):
            expected = left[step] if step < len(left) else None
            actual = right[step] if step < len(right) else None
            if expected != actual:
                return {"prompt": prompt, "step": step, "wanted": expected, "found": actual}
    return None


def prepare_optimum() -> str:
    """Install optimum-onnx into an environment of its own; give that environment's Python."""
    folder = ENVIRONMENTS / "optimum"
    python = folder / "bin" / "python"
    stamp, wanted = folder / ".installed", "\n".join(OPTIMUM_PACKAGES)
    if not (stamp.is_file() and stamp.read_text() == wanted):
        install([sys.executable, "-m", "venv", "--clear", str(folder)])
        for package in OPTIMUM_PACKAGES:
            install([str(python), "-m", "pip", "install", "--quiet", package])
        stamp.write_text(wanted)
    return str(python)


def prepare_node() -> str:
    """Install transformers.js into a folder of its own; give Node's path."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise InteropError("node and npm were wanted, and are not on the PATH; install Node.js 20 or newer")
    folder = ENVIRONMENTS / "node"
    stamp, wanted = folder / ".installed", json.dumps({"private": True, "dependencies": NODE_PACKAGES})
    if not (stamp.is_file() and stamp.read_text() == wanted):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text(wanted)
        # Without scripts: they would fetch CUDA libraries, and the CPU's come inside the package.
        install([npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder)])
        stamp.write_text(wanted)
    return node


def install(command: list[str]) -> None:
    """Run an installer, its words to stderr; raise InteropError where it fails."""
    try:
        subprocess.run(command, check=True, stdout=sys.stderr)
    except subprocess.CalledProcessError as exc:
        raise InteropError(f"{' '.join(command)} ended with {exc.returncode}") from exc


CLIENTS = (
    Client(
        name="onnxruntime-genai",
        loading_call="Model(bundle)",
        program="genai_client.py",
        folder=REPOSITORY,
        prepare=lambda: sys.executable,
    ),
    Client(
        name="optimum-onnx",
        loading_call="ORTModelForCausalLM.from_pretrained(bundle)",
        program="optimum_client.py",
        folder=REPOSITORY,
        prepare=prepare_optimum,
    ),
    Client(
        name="transformers.js",
        loading_call='AutoModelForCausalLM.from_pretrained(bundle, { dtype: "fp32" })',
        program="transformers_js_client.mjs",
        folder=ENVIRONMENTS / "node",
        prepare=prepare_node,
    ),
)


def write_results(
    outcomes: dict[str, dict[str, Any]], prompts: TokenIds, reference: Reference, *, is_unchanged: bool
) -> None:
    """Write benchmarks/results/interop.json."""
    fields = {
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("codegen-edge", "transformers", "torch")},
        "checkpoint": {**asdict(SHAPE), "seed": SEED, "initializer_range": INITIALIZER_RANGE},
        "prompts": [{"text": text, "tokens": len(prompt)} for text, prompt in zip(PROMPTS, prompts, strict=True)],
        "max_new_tokens": MAX_NEW_TOKENS,
        "reference": {
            "distinct_tokens": [len(set(new)) for new in reference.token_ids],
            "smallest_margin": reference.smallest_margin,
        },
        "bundle_unchanged": is_unchanged,
        "clients": outcomes,
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(fields, indent=2) + "\n")


def print_table(outcomes: dict[str, dict[str, Any]]) -> None:
    """Print a line for each client."""
    for name, outcome in outcomes.items():
        if "error" in outcome:
            print(f"{name:<18} failed")
            continue
        difference = outcome["first_difference"]
        verdict = "equal to transformers" if difference is None else f"differs: {difference}"
        packages = ", ".join(f"{package} {number}" for package, number in outcome["versions"].items())
        print(f"{name:<18} {outcome['tokens']:>4} tokens {verdict}  ({packages})")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InteropError as exc:
        sys.exit(str(exc))
