from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from codegen_edge.bundle import storage
from codegen_edge.bundle.storage import replace_file, require_free_space, sha256_of, staged_folder
from codegen_edge.errors import InvalidInputError, StorageError


def make_bundle(folder: Path, content: str) -> Path:
    folder.mkdir()
    (folder / "bundle.json").write_text(json.dumps({"files": {"stale": {}}, "content": content}))
    return folder


def content_of(folder: Path) -> str:
    content: str = json.loads((folder / "bundle.json").read_text())["content"]
    return content


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_folder_appears_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "out", overwrite=False) as stage:
        (stage / "bundle.json").write_text("new")
        assert not (tmp_path / "out").exists()
    assert names_in(tmp_path) == ["out"]
    assert (tmp_path / "out" / "bundle.json").read_text() == "new"


@pytest.mark.parametrize("can_exchange", [True, False])
def test_old_folder_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool) -> None:
    if not can_exchange:
        monkeypatch.setattr(storage, "_exchange", lambda *_: False)
    out = make_bundle(tmp_path / "out", "old")
    (out / "stale").touch()
    with staged_folder(out, overwrite=True) as stage:
        (stage / "bundle.json").write_text("new")
        assert content_of(out) == "old"
    assert names_in(tmp_path) == ["out"]
    assert names_in(out) == ["bundle.json"]
    assert (out / "bundle.json").read_text() == "new"


def test_failure_keeps_the_old_folder_and_leaves_no_other(tmp_path: Path) -> None:
    out = make_bundle(tmp_path / "out", "old")
    with pytest.raises(ZeroDivisionError), staged_folder(out, overwrite=True) as stage:
        (stage / "bundle.json").write_text("half")
        raise ZeroDivisionError
    assert names_in(tmp_path) == ["out"]
    assert content_of(out) == "old"


def test_failed_rename_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = make_bundle(tmp_path / "out", "old")
    monkeypatch.setattr(storage, "_exchange", lambda *_: False)
    rename = Path.rename

    def fail_on_the_new_one(self: Path, target: Path) -> Path:
        if target == out and "-old" not in self.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_on_the_new_one)
    with pytest.raises(StorageError, match="no room left"), staged_folder(out, overwrite=True) as stage:
        (stage / "bundle.json").write_text("new")
    assert names_in(tmp_path) == ["out"]
    assert content_of(out) == "old"


def test_existing_folder_is_refused_without_overwrite(tmp_path: Path) -> None:
    out = make_bundle(tmp_path / "out", "old")
    with pytest.raises(InvalidInputError, match="allow to overwrite it"), staged_folder(out, overwrite=False):
        pytest.fail("must refuse before any work")


@pytest.mark.parametrize("kind", ["folder of something else", "file", "symlink", "no parent"])
def test_target_that_is_no_bundle_is_never_replaced(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind == "symlink":
        out.symlink_to(make_bundle(tmp_path / "elsewhere", "old"))
    elif kind == "no parent":
        out = tmp_path / "none" / "out"
    else:
        out.mkdir()
        (out / "thesis.tex").write_text("mine")
    with pytest.raises(InvalidInputError), staged_folder(out, overwrite=True):
        pytest.fail("must refuse before any work")


def test_killed_process_leaves_the_old_folder_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    out = make_bundle(tmp_path / "out", "old")
    program = (
        "import os, signal, sys; from pathlib import Path; from codegen_edge.bundle.storage import staged_folder\n"
        "with staged_folder(Path(sys.argv[1]), overwrite=True) as stage:\n"
        "    (stage / 'bundle.json').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(out)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert content_of(out) == "old"
    assert len(names_in(tmp_path)) == 2
    with staged_folder(out, overwrite=True) as stage:
        (stage / "bundle.json").write_text("new")
    assert names_in(tmp_path) == ["out"]


def test_process_killed_between_two_renames_loses_nothing(tmp_path: Path) -> None:
    make_bundle(tmp_path / ".out.tmp-0123456789abcdef-old", "old")
    with pytest.raises(InvalidInputError, match="exists"), staged_folder(tmp_path / "out", overwrite=False):
        pytest.fail("the old folder is back and may not be replaced")
    assert content_of(tmp_path / "out") == "old"


def test_stage_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    stage = tmp_path / ".out.tmp-0123456789abcdef"
    stage.mkdir()
    descriptor = os.open(stage, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with staged_folder(tmp_path / "out", overwrite=False) as own:
        (own / "bundle.json").touch()
    assert stage.is_dir()
    os.close(descriptor)
    with staged_folder(tmp_path / "other", overwrite=False), staged_folder(tmp_path / "other2", overwrite=False):
        assert stage.is_dir()  # another target's


def test_bundle_with_somebodys_own_file_is_never_replaced(tmp_path: Path) -> None:
    out = make_bundle(tmp_path / "out", "old")
    (out / "thesis.tex").write_text("mine")
    with pytest.raises(InvalidInputError, match=r"thesis\.tex"), staged_folder(out, overwrite=True):
        pytest.fail("must refuse before any work")


def test_full_disk_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    def fill(stage: Path) -> None:
        with storage.storage_errors(stage):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match="no room left"), staged_folder(tmp_path / "out", overwrite=False) as stage:
        fill(stage)
    assert names_in(tmp_path) == []


def test_too_little_space_is_refused_before_work(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="GB are needed"):
        require_free_space(tmp_path, 10**18)


def test_replaced_file_is_old_or_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bundle.json"
    path.write_text("old")

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(StorageError):
            replace_file(path, b"new")
    assert path.read_text() == "old"
    replace_file(path, b"new")
    assert path.read_text() == "new"
    assert names_in(tmp_path) == ["bundle.json"]


def test_sha256_of_a_file_is_the_standard_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    assert sha256_of(tmp_path / "file") == expected
