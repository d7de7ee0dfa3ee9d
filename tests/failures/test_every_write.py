"""Rows W01, W02, W08, W10 and B25: a fault, a kill or a signal at every call that changes the disk."""

from __future__ import annotations

import errno
import functools
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from codegen_edge import open_bundle
from codegen_edge.bundle import Bundle, FileRecord
from codegen_edge.bundle.storage import replace_file
from codegen_edge.errors import InvalidInputError, StorageError
from codegen_edge.quantization import QuantizeOptions, quantize_bundle
from tests.chaos.points import error_at, kill_at, nothing, watched
from tests.fuzz.children import in_child

FP16 = QuantizeOptions(scheme="fp16", overwrite=True)
FEWEST_POINTS = 20
REMOVING = ("unlink", "rmdir")  # where these fail, what was to be removed stays until the next one
PATIENCE_SECONDS = 60.0


@pytest.fixture(scope="module")
def written(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, FileRecord]:
    """Files of the bundle that is written in these tests."""
    made, _ = quantize_bundle(tiny_bundle, tmp_path_factory.mktemp("new") / "bundle", FP16)
    return dict(made.manifest.files)


def state_of(folder: Path, old: Bundle, new: dict[str, FileRecord]) -> str:
    """Whether a folder is the old bundle, the new one, or gone; every hash is compared."""
    if not folder.exists():
        return "gone"
    files = open_bundle(folder).manifest.files
    assert files in (old.manifest.files, new)
    return "old" if files == old.manifest.files else "new"


def points_of(old: Bundle, tmp_path: Path) -> list[str]:
    """Names of the calls that replace a bundle."""
    out = shutil.copytree(old.path, tmp_path / "counted" / "bundle")
    with watched(nothing) as names:
        quantize_bundle(old, out, FP16)
    return list(names)


def fault_at_every_point(
    old: Bundle, new: dict[str, FileRecord], folder: Path, step: int, *, code: int, for_ever: bool
) -> int:
    """Write the bundle over the old one with a fault at every `step`-th point; how many points there are."""
    number = 0
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        out = shutil.copytree(old.path, folder / "bundle")
        message = "done"
        try:
            with watched(error_at(number, code, for_ever=for_ever)) as names:
                quantize_bundle(old, out, FP16)
        except StorageError as exc:
            message = str(exc)
        state = state_of(out, old, new)
        assert state == ("old" if "old state is intact" in message else "new"), (number, names[-1], message)
        if len(names) <= number:
            return len(names)
        if not for_ever and names[number] not in REMOVING:
            assert [each.name for each in folder.iterdir()] == ["bundle"], names[number]
        quantize_bundle(old, out, FP16)  # the next one works, and sweeps whatever there was
        assert [each.name for each in folder.iterdir()] == ["bundle"], names[number]
        number += step


@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for ever"])
def test_W02_fault_at_some_writes_leaves_old_or_new(
    for_ever: bool, tiny_bundle: Bundle, written: dict[str, FileRecord], tmp_path: Path
) -> None:
    step = 11  # the long test tries every one
    num_points = fault_at_every_point(
        tiny_bundle, written, tmp_path / "out", step, code=errno.ENOSPC, for_ever=for_ever
    )
    assert num_points >= FEWEST_POINTS


@pytest.mark.long
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for ever"])
def test_W02_fault_at_every_write_leaves_old_or_new(
    for_ever: bool, code: int, tiny_bundle: Bundle, written: dict[str, FileRecord], tmp_path: Path
) -> None:
    fault_at_every_point(tiny_bundle, written, tmp_path / "out", 1, code=code, for_ever=for_ever)


def test_W02_fault_at_every_write_of_a_file_leaves_old_or_new(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    path.parent.mkdir()
    for code in (errno.ENOSPC, errno.EIO):
        for number in range(20):
            path.write_bytes(b"old")
            message = "done"
            try:
                with watched(error_at(number, code)) as names:
                    replace_file(path, b"new")
            except StorageError as exc:
                message = str(exc)
            assert path.read_bytes() == (b"old" if "old state is intact" in message else b"new"), names
            left = [each.name for each in path.parent.iterdir() if each != path]
            assert not left or names[number] in REMOVING, names
            for name in left:
                (path.parent / name).unlink()
        assert len(names) < number, "every point was tried"


@pytest.mark.parametrize("is_there", [True, False], ids=["over an old one", "new"])
def test_W01_kill_at_20_points_leaves_old_or_new(
    is_there: bool, tiny_bundle: Bundle, written: dict[str, FileRecord], tmp_path: Path
) -> None:
    names = points_of(tiny_bundle, tmp_path)
    assert len(names) >= FEWEST_POINTS
    states = set()
    num_kills = FEWEST_POINTS if is_there else FEWEST_POINTS // 3
    for number in range(0, len(names), max(1, len(names) // num_kills)):
        folder = tmp_path / str(number)
        folder.mkdir()
        out = folder / "bundle"
        if is_there:
            shutil.copytree(tiny_bundle.path, out)

        def killed(number: int = number, out: Path = out) -> str:
            with watched(kill_at(number)):
                quantize_bundle(tiny_bundle, out, FP16)
            return "alive"

        ended = in_child(killed, seconds=PATIENCE_SECONDS)
        assert ended.outcome == "crash" or (ended.words == "alive" and not is_there), ended
        states.add(state_of(out, tiny_bundle, written))
        if number % 4 == 0:
            quantize_bundle(tiny_bundle, out, FP16)  # the next one works, and sweeps whatever there was
            assert [each.name for each in folder.iterdir()] == ["bundle"], names[number]
    assert states <= ({"old", "new"} if is_there else {"gone", "new"})
    assert len(states) == 2


def test_W08_two_writers_of_one_folder_leave_a_whole_bundle(
    tiny_bundle: Bundle, written: dict[str, FileRecord], tmp_path: Path
) -> None:
    other, _ = quantize_bundle(tiny_bundle, tmp_path / "other", QuantizeOptions(scheme="int8"))
    for overwrite in (True, False):
        out = tmp_path / f"out-{overwrite}" / "bundle"
        out.parent.mkdir()

        def write(scheme: str, out: Path = out, overwrite: bool = overwrite) -> str:
            quantize_bundle(tiny_bundle, out, QuantizeOptions(scheme=scheme, overwrite=overwrite))
            return "written"

        with ThreadPoolExecutor(2) as pool:
            children = [
                pool.submit(in_child, functools.partial(write, scheme), seconds=PATIENCE_SECONDS)
                for scheme in ("fp16", "int8")
            ]
        ended = [child.result() for child in children]
        assert "done" in [each.outcome for each in ended], ended
        assert all(each.outcome == "done" or "exists" in each.words for each in ended), ended
        assert overwrite or len({each.outcome for each in ended}) == 2, "without overwriting one of them wins"
        assert open_bundle(out).manifest.files in (written, other.manifest.files)
        assert [each.name for each in out.parent.iterdir()] == ["bundle"]


SIGNALLED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # where tests run in the background it is ignored
from codegen_edge.bundle.writer import BundleWriter
from codegen_edge.cli import main
def seal(self):
    os.kill(os.getpid(), int(number))
BundleWriter.seal = seal
number, bundle, out = sys.argv[1:]
sys.argv = ["codegen-edge", "quantize", bundle, out, "--scheme", "fp16", "--measure-tokens", "0", "--overwrite"]
main()
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=str
)
def test_W10_signal_while_writing_leaves_the_old_bundle(
    number: signal.Signals, code: int, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    out = shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    command = [sys.executable, "-c", SIGNALLED, str(int(number)), str(tiny_bundle.path), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert open_bundle(out).manifest == tiny_bundle.manifest
    assert [each.name for each in tmp_path.iterdir()] == ["bundle"]


def test_B25_quantization_that_is_refused_changes_nothing(tiny_bundle: Bundle, tmp_path: Path) -> None:
    out = shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(InvalidInputError, match="exists"):
        quantize_bundle(tiny_bundle, out, QuantizeOptions(scheme="fp16"))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
