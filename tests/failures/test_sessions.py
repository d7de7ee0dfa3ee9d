"""Session files: rows F06, F12 and F15 once more, and row W06, of a file that holds what somebody wrote."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codegen_edge import load_model
from codegen_edge.bundle import Bundle
from codegen_edge.errors import BundleError, InvalidInputError
from codegen_edge.generation.model import Model

MAGIC = b"codegen-edge session 2\n"
HEAD_AT = len(MAGIC) + 32 + 8


@pytest.fixture(scope="module")
def model(tiny_bundle: Bundle) -> Iterator[Model]:
    with load_model(tiny_bundle.path) as opened:
        yield opened


@pytest.fixture
def saved(model: Model, tmp_path: Path) -> Path:
    session = model.session()
    session.append("import os\n")
    session.generate(max_new_tokens=4)
    session.save(tmp_path / "turns.session")
    return tmp_path / "turns.session"


def rewritten(path: Path, change: Callable[[dict[str, Any]], object], tail: bytes | None = None) -> None:
    """Change the head, and the tensors' bytes, under a checksum that is right."""
    content = path.read_bytes()
    size = int.from_bytes(content[HEAD_AT - 8 : HEAD_AT], "little")
    head = json.loads(content[HEAD_AT : HEAD_AT + size])
    change(head)
    encoded = json.dumps(head).encode()
    body = len(encoded).to_bytes(8, "little") + encoded + (content[HEAD_AT + size :] if tail is None else tail)
    path.write_bytes(MAGIC + hashlib.sha256(body).digest() + body)


@pytest.mark.parametrize("place", [0, 30, HEAD_AT - 8, HEAD_AT + 20, -1000, -4, -1])
def test_F15_flipped_bit_anywhere_is_refused(place: int, model: Model, saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[place] ^= 1
    saved.write_bytes(content)
    with pytest.raises(BundleError, match="is no session that can be read"):
        model.load_session(saved)


@pytest.mark.parametrize("change", ["cut", "longer"])
def test_F03_session_that_was_cut_or_grew_is_refused(change: str, model: Model, saved: Path) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[:-1] if change == "cut" else content + b"\0")
    with pytest.raises(BundleError, match="checksum"):
        model.load_session(saved)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_F06_what_is_no_file_is_refused_at_once(kind: str, model: Model, tmp_path: Path) -> None:
    path = tmp_path / "turns.session"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(BundleError, match="no session that can be read"):
        model.load_session(path)
    session = model.session()
    session.append("a")
    with pytest.raises(InvalidInputError, match="no regular file"):
        session.save(path)


# What a file says of itself, under a checksum that is right.
HEADS: dict[str, Callable[[dict[str, Any]], object]] = {
    "4 TB tensor": lambda head: head["tensors"][0].__setitem__(2, [4, 2**38, 16]),
    "shape that wraps": lambda head: head["tensors"][0].__setitem__(2, [2**32, 2**32, 16]),
    "negative shape": lambda head: head["tensors"][0].__setitem__(2, [-4, -8, 16]),
    "shape of texts": lambda head: head["tensors"][0].__setitem__(2, ["4"]),
    "objects": lambda head: head["tensors"][0].__setitem__(1, "|O"),
    "dtype that is none": lambda head: head["tensors"][0].__setitem__(1, "none"),
    "other dtype": lambda head: head["tensors"][0].__setitem__(1, "<i4"),
    "other name": lambda head: head["tensors"][0].__setitem__(0, "past_key_values.9.key"),
    "fewer tensors": lambda head: head["tensors"].pop(),
    "no tensors": lambda head: head.pop("tensors"),
    "tensors of another kind": lambda head: head.update(tensors={"a": 1}),
    "other length": lambda head: head["held"].append(1),
    "id beyond the vocabulary": lambda head: head["token_ids"].append(10**9),
    "negative id": lambda head: head["held"].__setitem__(0, -1),
    "True as an id": lambda head: head["token_ids"].append(True),
    "text as ids": lambda head: head.update(token_ids="import os"),
    "no ids": lambda head: head.pop("held"),
}


@pytest.mark.parametrize("row", HEADS)
def test_F12_head_that_is_not_the_contents_is_refused(row: str, model: Model, saved: Path) -> None:
    rewritten(saved, HEADS[row])
    with pytest.raises(BundleError):
        model.load_session(saved)


@pytest.mark.parametrize("size", [2**33, 2**42])
def test_F12_head_of_terabytes_is_refused_before_it_is_read(size: int, model: Model, tmp_path: Path) -> None:
    path = tmp_path / "bomb.session"
    with path.open("wb") as file:
        file.write(MAGIC + bytes(32) + size.to_bytes(8, "little"))
        file.truncate(2**40)  # sparse: it takes no room on the disk
    with pytest.raises(BundleError, match="does not begin like one"):
        model.load_session(path)


def test_F12_file_beyond_the_models_cache_is_refused_before_it_is_read(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "bomb.session"
    with path.open("wb") as file:
        file.write(MAGIC + bytes(32) + (100).to_bytes(8, "little"))
        file.truncate(2**40)
    with pytest.raises(BundleError, match="more than a cache of this model"):
        model.load_session(path)


def test_F12_zip_bomb_is_never_unpacked(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """A file of less than a megabyte that stands for a hundred."""
    path = tmp_path / "bomb.session"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
        file.open("x.npy", "w", force_zip64=True) as member,
    ):
        for _ in range(100):
            member.write(bytes(2**20))
    program = (
        "import resource, sys\n"
        "import codegen_edge\n"
        "from codegen_edge.errors import BundleError\n"
        "model = codegen_edge.load_model(sys.argv[1], threads=1)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: model.load_session(sys.argv[2])\n"
        "except BundleError as exc: print(exc)\n"
        "assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000\n"
    )
    command = [sys.executable, "-c", program, str(tiny_bundle.path), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "format 1, which has no checksum" in done.stdout


def test_session_of_format_1_is_refused_with_a_clear_line(model: Model, tmp_path: Path) -> None:
    head = {"format": "codegen-edge session 1", "model": "", "token_ids": [1], "held": []}
    with (tmp_path / "old.session").open("wb") as file:
        arrays: dict[str, Any] = {"session.json": np.frombuffer(json.dumps(head).encode(), np.uint8)}
        np.savez(file, **arrays)
    with pytest.raises(BundleError, match="no session that can be read.*format 1.*begin a new session with its text"):
        model.load_session(tmp_path / "old.session")


def test_W06_private_session_stays_private(model: Model, saved: Path) -> None:
    saved.chmod(0o600)
    session = model.load_session(saved)
    session.append("x")
    session.save(saved)
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    assert model.load_session(saved).text == session.text
