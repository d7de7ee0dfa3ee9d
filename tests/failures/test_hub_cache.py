"""Row C13: files of the hub's cache whose name is their sha256 are what their name says."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from codegen_edge.errors import CheckpointError
from codegen_edge.exporter import hub, locate_checkpoint

HUB_ID = "Salesforce/codegen-350M-mono"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def snapshot(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """As the hub's library lays out its cache: large files named by their sha256, small ones by git's sha1."""
    folder, blobs = tmp_path / "snapshots" / COMMIT, tmp_path / "blobs"
    folder.mkdir(parents=True)
    blobs.mkdir()
    for file in tiny_checkpoint.iterdir():
        content = file.read_bytes()
        name = (
            hashlib.sha256(content).hexdigest() if file.suffix == ".safetensors" else hashlib.sha1(content).hexdigest()
        )
        shutil.copyfile(file, blobs / name)
        (folder / file.name).symlink_to(os.path.join("..", "..", "blobs", name))
    return folder


def damage(file: Path) -> None:
    blob = file.resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)


def test_C13_sound_cache_is_taken(snapshot: Path) -> None:
    assert locate_checkpoint(str(snapshot)).folder == snapshot


@pytest.mark.parametrize("named", ["by its hub id", "by its folder"])
def test_C13_damaged_blob_of_the_same_size_is_refused(
    named: str, snapshot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "_snapshot_offline", lambda *_: str(snapshot))
    damage(snapshot / "model.safetensors")
    name = HUB_ID if named == "by its hub id" else str(snapshot)
    with pytest.raises(CheckpointError, match=r"model\.safetensors in the hub's cache is damaged.*remove .*/blobs/"):
        locate_checkpoint(name, offline=named == "by its hub id")


def test_C13_blob_with_another_kind_of_name_is_not_compared(snapshot: Path) -> None:
    damage(snapshot / "config.json")
    assert locate_checkpoint(str(snapshot)).folder == snapshot
