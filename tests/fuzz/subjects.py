"""What can be altered in which way: a mutant is made in a folder, with the attempt that shows what became of it."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import attempts, mutations
from tests.fuzz.mutations import Change
from tests.fuzz.originals import Originals

_REQUESTS_OF_A_MUTANT = 20
_SESSION_MAGIC = b"codegen-edge session 2\n"
_SESSION_START = len(_SESSION_MAGIC) + 32 + 8  # sha256, and the length of the head


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """An altered input.

    Attributes:
        attempt: what is tried with it, in a child.
        expected: what the original gives.
        is_changed: whether it differs from the original at all.
        may_differ: whether another result is no fault: nothing vouches for what was altered.
        count: inputs in it.
    """

    attempt: Callable[[], str]
    expected: str
    is_changed: bool = True
    may_differ: bool = True
    count: int = 1


Make = Callable[[Originals, Path, random.Random], Mutant]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One way to alter one thing.

    Attributes:
        name: what is altered, and how.
        weight: how often, among the others.
        make: makes a mutant in an empty folder.
    """

    name: str
    weight: int
    make: Make


def _checkpoint(name: str, change: Change, *, is_part: bool = False) -> Make:
    def make(originals: Originals, folder: Path, rng: random.Random) -> Mutant:
        copied = shutil.copytree(originals.checkpoint, folder / "checkpoint")
        if is_part:
            (copied / "tokenizer.json").unlink()
        is_changed = _alter(copied / name, change, rng)
        return Mutant(
            attempt=functools.partial(attempts.read_checkpoint, copied),
            expected=originals.expected("parts" if is_part else "checkpoint"),
            is_changed=is_changed,
        )

    return make


def _bundle(name: str, change: Change, mode: str) -> Make:
    """`mode`: "hashed" leaves the manifest, "sizes" checks sizes only, others correct the manifest."""

    def make(originals: Originals, folder: Path, rng: random.Random) -> Mutant:
        copied = shutil.copytree(originals.bundle, folder / "bundle")
        is_changed = _alter(copied / name, change, rng)
        if mode in ("vouched", "quantized"):
            _vouch(copied, name)
        if mode == "quantized":
            attempt = functools.partial(attempts.quantize, copied, folder / "quantized")
        else:
            attempt = functools.partial(attempts.generate, copied, check="size" if mode == "sizes" else "full")
        return Mutant(
            attempt=attempt,
            expected=originals.expected("quantized" if mode == "quantized" else "bundle"),
            is_changed=is_changed,
            may_differ=mode != "hashed",
        )

    return make


def _session(*, is_vouched: bool) -> Make:
    def make(originals: Originals, folder: Path, rng: random.Random) -> Mutant:
        original = originals.session.read_bytes()
        content = _session_vouched(original, rng) if is_vouched else mutations.bytes_changed(original, rng)
        path = folder / "session"
        path.write_bytes(content)
        return Mutant(
            attempt=functools.partial(attempts.go_on, originals.bundle, path),
            expected=originals.expected("session"),
            is_changed=content != original,
            may_differ=is_vouched,
        )

    return make


def _session_vouched(original: bytes, rng: random.Random) -> bytes:
    """Another head or other tensors under a checksum that is right."""
    head_bytes = int.from_bytes(original[_SESSION_START - 8 : _SESSION_START], "little")
    head, tensors = original[_SESSION_START:][:head_bytes], original[_SESSION_START:][head_bytes:]
    if rng.random() < 0.8:
        head = mutations.json_changed(head, rng)
    else:
        tensors = mutations.bytes_changed(tensors, rng)
    content = len(head).to_bytes(8, "little") + head + tensors
    return _SESSION_MAGIC + hashlib.sha256(content).digest() + content


def _requests(originals: Originals, folder: Path, rng: random.Random) -> Mutant:
    asked: list[tuple[str, bytes]] = []
    for _ in range(_REQUESTS_OF_A_MUTANT):
        path, body = rng.choice(originals.requests)
        if rng.random() < 0.1:
            path = rng.choice(originals.requests)[0]
        content = json.dumps(body).encode()
        if rng.random() < 0.8:
            content = json.dumps(mutations.value_changed(copy.deepcopy(body), rng)).encode()
        else:
            content = mutations.json_changed(content, rng)
        asked.append((path, content))
    (folder / "requests.txt").write_text("\n".join(f"{path} {content!r}" for path, content in asked))
    attempt = functools.partial(attempts.ask, originals.bundle, asked)
    return Mutant(attempt=attempt, expected="", may_differ=False, count=len(asked))


def _alter(path: Path, change: Change, rng: random.Random) -> bool:
    original = path.read_bytes()
    content = change(original, rng)
    path.write_bytes(content)
    return content != original


def _vouch(folder: Path, name: str) -> None:
    content, path = (folder / name).read_bytes(), folder / "bundle.json"
    manifest = json.loads(path.read_bytes())
    manifest["files"][name] = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    path.write_text(json.dumps(manifest))


def subjects() -> list[Subject]:
    """All that can be altered."""
    in_json, in_bytes, bits = mutations.json_changed, mutations.bytes_changed, mutations.bits_flipped
    made: list[tuple[str, int, Make]] = [
        ("checkpoint config.json", 5, _checkpoint("config.json", in_json)),
        ("checkpoint safetensors header", 5, _checkpoint("model.safetensors", mutations.safetensors_header_changed)),
        ("checkpoint safetensors body", 2, _checkpoint("model.safetensors", mutations.safetensors_body_changed)),
        ("checkpoint tokenizer.json", 5, _checkpoint("tokenizer.json", in_json)),
        ("checkpoint tokenizer_config.json", 1, _checkpoint("tokenizer_config.json", in_json)),
        ("checkpoint vocab.json", 2, _checkpoint("vocab.json", in_json, is_part=True)),
        ("checkpoint merges.txt", 2, _checkpoint("merges.txt", in_bytes, is_part=True)),
        ("checkpoint added_tokens.json", 2, _checkpoint("added_tokens.json", in_json, is_part=True)),
        ("bundle bundle.json", 8, _bundle("bundle.json", in_json, "manifest")),
        ("session", 4, _session(is_vouched=False)),
        ("session vouched", 4, _session(is_vouched=True)),
        ("requests", 6, _requests),
    ]
    for mode, weight in (("hashed", 1), ("sizes", 2), ("vouched", 4)):
        made += [
            (f"bundle graph {mode}", weight, _bundle("onnx/model.onnx", in_bytes, mode)),
            (f"bundle weights {mode}", 1, _bundle("onnx/model.onnx_data", bits if mode == "sizes" else in_bytes, mode)),
            (f"bundle tokenizer.json {mode}", weight, _bundle("tokenizer.json", in_json, mode)),
            (f"bundle config.json {mode}", 1, _bundle("config.json", in_json, mode)),
        ]
    made.append(("bundle graph quantized", 4, _bundle("onnx/model.onnx", in_bytes, "quantized")))
    return [Subject(name=name, weight=weight, make=make) for name, weight, make in made]
