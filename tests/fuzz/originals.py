"""What is altered: a sound checkpoint, bundle and session, and what is got of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz import attempts
from tests.fuzz.children import in_child

_PATIENCE_SECONDS = 300.0
_TEXTS = ("def hello_world():\n    print('hello world')\n\n\nfor i in range(10):\n\treturn i * 2  # again\n",) * 6
FIXTURES = Path(__file__).parents[1] / "server" / "dialects" / "fixtures"


@dataclass(frozen=True, slots=True, kw_only=True)
class Originals:
    """Sound inputs.

    Attributes:
        checkpoint: with tokenizer.json and its three parts.
        bundle: of it.
        session: a file, saved with the bundle.
        requests: path and body that the server answers.
        attempts: what is tried with the sound inputs, by name.
    """

    checkpoint: Path
    bundle: Path
    session: Path
    requests: tuple[tuple[str, dict[str, Any]], ...]
    attempts: dict[str, Callable[[], str]]
    _known: dict[str, str] = field(default_factory=dict)

    def expected(self, name: str) -> str:
        """What an attempt gives; it is tried when it is first asked for."""
        if name not in self._known:
            self._known[name] = _sound(self.attempts[name])
        return self._known[name]


def make_originals(folder: Path, *, checkpoint: Path | None = None, bundle: Path | None = None) -> Originals:
    """Make what is altered in `folder`; models run in children, so that this process has no threads of theirs.

    Args:
        folder: where to.
        checkpoint: taken instead of a random one.
        bundle: taken instead of an export of it.
    """
    paths = {name: folder / name for name in ("checkpoint", "bundle", "session")}
    for name, given in (("checkpoint", checkpoint), ("bundle", bundle)):
        if given is not None:
            shutil.copytree(given, paths[name])
    if checkpoint is None:
        _sound(lambda: _write_checkpoint(paths["checkpoint"]))
    if bundle is None:
        _sound(lambda: _export(paths["checkpoint"], paths["bundle"]))
    _sound(lambda: attempts.save_session(paths["bundle"], paths["session"]))
    parts = shutil.copytree(paths["checkpoint"], folder / "parts")
    (parts / "tokenizer.json").unlink()
    tried: dict[str, Callable[[], str]] = {
        "checkpoint": lambda: attempts.read_checkpoint(paths["checkpoint"]),
        "parts": lambda: attempts.read_checkpoint(parts),
        "bundle": lambda: attempts.generate(paths["bundle"]),
        "quantized": lambda: attempts.quantize(paths["bundle"], folder / "quantized"),
        "session": lambda: attempts.go_on(paths["bundle"], paths["session"]),
        "requests": lambda: "",
    }
    return Originals(
        checkpoint=paths["checkpoint"],
        bundle=paths["bundle"],
        session=paths["session"],
        requests=tuple(_requests()),
        attempts=tried,
    )


def _sound(work: Callable[[], str]) -> str:
    ended = in_child(work, seconds=_PATIENCE_SECONDS)
    if ended.outcome != "done":
        raise RuntimeError(f"what is to be altered is not sound: {ended.outcome}, {ended.words}")
    return ended.words


def _write_checkpoint(folder: Path) -> str:
    from codegen_edge.exporter.random_checkpoint import ModelShape, write_random_checkpoint

    shape = ModelShape(n_layer=2, n_embd=64, n_head=4, rotary_dim=16, vocab_size=640, n_positions=128)
    write_random_checkpoint(folder, shape, texts=_TEXTS, initializer_range=0.25)
    return ""


def _export(checkpoint: Path, bundle: Path) -> str:
    from codegen_edge.exporter import export_checkpoint, locate_checkpoint

    export_checkpoint(locate_checkpoint(str(checkpoint)), bundle)
    return ""


def _requests() -> list[tuple[str, dict[str, Any]]]:
    """Those that clients were recorded with, and some of OpenAI's."""
    found: list[tuple[str, dict[str, Any]]] = [
        ("/v1/completions", {"prompt": "def f():", "max_tokens": 2, "temperature": 0.5, "seed": 1, "logprobs": 2}),
        ("/v1/completions", {"prompt": [5, 6, 7], "n": 2, "best_of": 2, "stop": ["\n"], "logit_bias": {"5": -100}}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "def f():"}], "max_tokens": 2}),
        ("/tokenize", {"prompt": "def f():"}),
        ("/detokenize", {"tokens": [5, 6, 7]}),
    ]
    for path in sorted(FIXTURES.glob("*.json")):
        recorded = json.loads(path.read_text())
        if recorded["method"] == "POST" and isinstance(recorded.get("body"), dict):
            short = dict.fromkeys(("max_tokens", "n_predict"), 2)
            body = recorded["body"] | {key: value for key, value in short.items() if key in recorded["body"]}
            found.append((recorded["path"], body))
    return found
