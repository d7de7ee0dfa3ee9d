"""Rows W05–W11: what is left behind, what it may replace, and who may read it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from codegen_edge import open_bundle
from codegen_edge.bundle import Bundle, storage
from codegen_edge.bundle.leftovers import working_folder
from codegen_edge.bundle.storage import check_target, replace_file, resolved, staged_folder
from codegen_edge.errors import InvalidInputError, StorageError
from codegen_edge.quantization import QuantizeOptions, quantize_bundle

INT8 = QuantizeOptions(scheme="int8", overwrite=True)

KILLED_IN_A_VERDICT = """
import os, signal, sys
from codegen_edge import open_bundle
bundle = open_bundle(sys.argv[1], check="size")
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
bundle.record_parity({"verdict": "equal"})
"""
KILLED_IN_A_BUILD = """
import os, signal, sys
from pathlib import Path
from codegen_edge.bundle.leftovers import working_folder
with working_folder(Path(sys.argv[1]), "build") as folder:
    (folder / "graph").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(program: str, *arguments: Path) -> None:
    done = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], check=False)
    assert done.returncode == -signal.SIGKILL


def hidden_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_W09_kill_during_a_verdict_blocks_no_overwrite(bundle_copy: Bundle, tiny_bundle: Bundle) -> None:
    killed(KILLED_IN_A_VERDICT, bundle_copy.path)
    (left,) = hidden_in(bundle_copy.path)
    assert left.startswith(".bundle.json.tmp-")
    assert open_bundle(bundle_copy.path).manifest == bundle_copy.manifest
    quantize_bundle(tiny_bundle, bundle_copy.path, INT8)
    assert open_bundle(bundle_copy.path).manifest.precision == "int8"
    assert hidden_in(bundle_copy.path) == hidden_in(bundle_copy.path.parent) == []


def test_W09_next_verdict_sweeps_what_a_killed_one_left(bundle_copy: Bundle) -> None:
    killed(KILLED_IN_A_VERDICT, bundle_copy.path)
    open_bundle(bundle_copy.path).record_parity({"verdict": "equal"})
    assert hidden_in(bundle_copy.path) == []


def test_W09_file_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    held = tmp_path / f".bundle.json.tmp-{os.getpid()}-01234567"
    young = tmp_path / f".bundle.json.tmp-{os.getpid()}-89abcdef"  # not locked yet
    other = tmp_path / ".README.md.tmp-4000000-01234567"
    for path in (held, young, other):
        path.touch()
    with held.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.utime(held, (0, 0))
        replace_file(tmp_path / "bundle.json", b"{}")
        assert hidden_in(tmp_path) == sorted([held.name, young.name, other.name])
    replace_file(tmp_path / "bundle.json", b"{}")
    assert hidden_in(tmp_path) == sorted([young.name, other.name])


def test_W09_killed_build_is_swept_and_a_living_one_is_not(tmp_path: Path) -> None:
    killed(KILLED_IN_A_BUILD, tmp_path)
    assert len(hidden_in(tmp_path)) == 1
    earlier = [tmp_path / f".codegen-edge-build-{name}" for name in ("abcdefg_", "hijklmn0")]  # as tempfile names them
    for path in earlier:
        path.mkdir()
    os.utime(earlier[1], (time.time() - 2 * 86_400,) * 2)
    with working_folder(tmp_path, "build") as living:
        assert hidden_in(tmp_path) == sorted([living.parent.name, earlier[0].name])
        with staged_folder(tmp_path / "out", overwrite=False) as stage:
            assert stage.is_dir()
        with staged_folder(living / "candidate", overwrite=False) as stage:  # waits for no lock of its own process
            assert stage.is_dir()
        assert living.is_dir()
        assert mode_of(living.parent) == 0o700
    assert hidden_in(tmp_path) == [earlier[0].name]


def test_W09_staging_sweeps_a_killed_build(tmp_path: Path) -> None:
    killed(KILLED_IN_A_BUILD, tmp_path)
    with staged_folder(tmp_path / "out", overwrite=False):
        pass
    assert hidden_in(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF])
def test_W09_file_system_without_locks_is_written_to(
    code: int, bundle_copy: Bundle, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    abandoned = bundle_copy.path / ".bundle.json.tmp-4000000-01234567"
    abandoned.touch()
    open_bundle(bundle_copy.path).record_parity({"verdict": "equal"})
    assert abandoned.exists()  # nobody can say that
    quantize_bundle(tiny_bundle, bundle_copy.path, INT8)
    assert open_bundle(bundle_copy.path).manifest.precision == "int8"


def test_W09_lock_that_fails_for_another_reason_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int, operation: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(StorageError, match="Input/output error"), staged_folder(tmp_path / "out", overwrite=False):
        pytest.fail("must refuse before any work")


def test_W06_modes_are_kept_when_a_bundle_is_replaced(bundle_copy: Bundle, tiny_bundle: Bundle) -> None:
    modes = {"": 0o700, "onnx": 0o750, "onnx/model.onnx": 0o640, "bundle.json": 0o600, "README.md": 0o444}
    for name, mode in modes.items():
        (bundle_copy.path / name).chmod(mode)
    quantize_bundle(tiny_bundle, bundle_copy.path, INT8)
    assert {name: mode_of(bundle_copy.path / name) for name in modes} == modes
    fresh = tiny_bundle.path / "config.json"
    assert mode_of(bundle_copy.path / "quantization_report.json") == mode_of(fresh)


def test_W06_nobody_else_reads_a_stage(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "out", overwrite=False) as stage:
        assert mode_of(stage) == 0o700


@pytest.mark.parametrize(("umask", "folder", "file"), [(0o022, 0o755, 0o644), (0o077, 0o700, 0o600)])
def test_W06_what_is_new_obeys_the_umask(umask: int, folder: int, file: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        with staged_folder(tmp_path / "out", overwrite=False) as stage:
            (stage / "bundle.json").write_text("{}")
        replace_file(tmp_path / "report.json", b"{}")
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "out") == folder
    assert mode_of(tmp_path / "out" / "bundle.json") == mode_of(tmp_path / "report.json") == file


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_W06_replaced_file_keeps_its_mode(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text("old")
    path.chmod(mode)
    replace_file(path, b"new")
    assert (path.read_text(), mode_of(path)) == ("new", mode)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_W05_what_is_no_file_is_not_replaced_by_one(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/null")
    with pytest.raises(InvalidInputError, match="no regular file"):
        replace_file(path, b"{}")
    assert os.path.lexists(path)
    assert not path.is_file()


def test_W05_parent_of_a_link_is_what_the_system_means(tmp_path: Path) -> None:
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    with staged_folder(tmp_path / "link" / ".." / "out", overwrite=False) as stage:
        (stage / "bundle.json").write_text("{}")
    assert (tmp_path / "real" / "out" / "bundle.json").is_file()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "meant"),
    [("a/../x", "x"), ("link/../x", "real/x"), ("link/x", "link/x"), ("x/..", "."), ("link/..", "real"), (".", ".")],
)
def test_W05_paths_mean_what_the_system_means(
    given: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "x", "real/deep"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/deep")
    monkeypatch.chdir(tmp_path)
    assert resolved(Path(given)) == Path(os.path.normpath(tmp_path / meant))


def enter(target: Path) -> None:
    with staged_folder(target, overwrite=True):
        pytest.fail("must refuse before any work")


def check(target: Path) -> None:
    check_target(target, overwrite=True)


@pytest.mark.parametrize("write", [check, enter])
@pytest.mark.parametrize("target", ["/proc", "/"])
def test_W11_mount_point_is_refused_before_any_work(target: str, write: Callable[[Path], None]) -> None:
    with pytest.raises(InvalidInputError, match="is a mount point"):
        write(Path(target))


def test_W11_part_of_a_disk_that_is_mounted_is_refused(bundle_copy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `mount --bind` makes it: the same device on both sides, so that only the table of mounts tells."""
    monkeypatch.setattr(storage, "_mount_points", lambda: {str(bundle_copy.path)})
    with pytest.raises(InvalidInputError, match="is a mount point"):
        enter(bundle_copy.path)
    assert hidden_in(bundle_copy.path.parent) == []


def test_W11_table_of_mounts_is_read() -> None:
    assert {"/", "/proc"} <= storage._mount_points()


def test_W12_link_of_somebodys_own_is_never_removed(bundle_copy: Bundle, tiny_bundle: Bundle) -> None:
    (bundle_copy.path / "mine").symlink_to("nowhere")
    with pytest.raises(InvalidInputError, match="holds mine, which is no part of the bundle"):
        quantize_bundle(tiny_bundle, bundle_copy.path, INT8)


def test_W12_file_that_only_looks_like_ours_is_somebodys_own(bundle_copy: Bundle, tiny_bundle: Bundle) -> None:
    (bundle_copy.path / ".bundle.json.tmp-mine").touch()
    with pytest.raises(InvalidInputError, match="which is no part of the bundle"):
        quantize_bundle(tiny_bundle, bundle_copy.path, INT8)


def test_W13_copied_files_are_those_that_were_checked(bundle_copy: Bundle, tmp_path: Path) -> None:
    checked = open_bundle(bundle_copy.path)
    shutil.copyfile(bundle_copy.path / "config.json", tmp_path / "config.json")
    os.replace(tmp_path / "config.json", bundle_copy.path / "config.json")
    with pytest.raises(Exception, match=r"config\.json was changed while it was read"):
        quantize_bundle(checked, tmp_path / "out", INT8)
    assert not (tmp_path / "out").exists()
    assert json.loads((bundle_copy.path / "bundle.json").read_text())["precision"] == "fp32"
