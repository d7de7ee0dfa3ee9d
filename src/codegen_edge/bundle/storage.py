"""Writing a folder or a file so that a crash or a full disk leaves the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from codegen_edge.bundle.leftovers import (
    is_unfinished_file,
    lock,
    locked,
    new_file,
    new_stage,
    sweep_files,
    sweep_stages,
    sweep_work,
)
from codegen_edge.bundle.model_config import read_json_object
from codegen_edge.errors import InvalidInputError, StorageError

MANIFEST_FILE = "bundle.json"

_CHUNK_BYTES = 4 * 1024 * 1024  # large enough to keep sha256 busy, small enough to stay in cache
_RENAME_EXCHANGE = 2  # linux/fs.h
# c10/core/CPUAllocator: "DefaultCPUAllocator: can't allocate memory", on Windows "not enough memory"
_TORCH_HAS_NO_MEMORY = re.compile("can't allocate memory|not enough memory")
_AT_FDCWD = -100  # fcntl.h: paths are relative to the working directory


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def require_free_space(folder: Path, needed_bytes: int) -> None:
    """Raise StorageError when `folder`'s disk has less than `needed_bytes` free."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise StorageError(
            f"{folder} has {free_bytes / 1e9:.2f} GB free, {needed_bytes / 1e9:.2f} GB are needed; nothing was written"
        )


@contextlib.contextmanager
def staged_folder(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give an empty folder beside `target`; on success it takes target's place in one step.

    Args:
        target: the folder to make. Its parent must exist.
        overwrite: whether a folder that is there may be replaced. It is kept until the new one is whole.

    Raises:
        InvalidInputError: `target` exists and `overwrite` is false, or it is no folder, or has no parent folder.
        StorageError: the folder could not be made or put in place.
    """
    target = resolved(target)
    _check_is_no_mount(target)
    if target.parent.is_dir():
        with storage_errors(target), locked(target.parent):
            sweep_stages(target)
            sweep_work(target.parent)
            if target.is_dir():
                sweep_files(target / MANIFEST_FILE)
    check_target(target, overwrite=overwrite)
    stage = new_stage(target)
    with contextlib.ExitStack() as stack:
        try:
            with storage_errors(target), locked(target.parent):
                stage.mkdir()
                stack.enter_context(locked(stage))  # for as long as this process works on it
                fresh_mode = stat.S_IMODE(stage.stat().st_mode)  # as the umask has it
                stage.chmod(0o700)  # nobody else reads what is not put in place yet
            yield stage
            with storage_errors(target), locked(target.parent):
                check_target(target, overwrite=overwrite)  # another process may have made it meanwhile
                _keep_modes(stage, target, fresh_mode)
                _sync_tree(stage)
                _put_in_place(stage, target)
                with _in_place(target):
                    _sync(target.parent)
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def resolved(target: Path) -> Path:
    """An absolute path that names what the system means by `target`: `link/..` is the parent of what `link` names."""
    if ".." not in target.parts:
        return Path(os.path.abspath(target))
    if target.name == "..":
        return Path(os.path.realpath(target))
    return Path(os.path.realpath(target.parent)) / target.name


@contextlib.contextmanager
def storage_errors(target: Path) -> Iterator[None]:
    """Map an OSError raised while writing to StorageError, with the reason in words."""
    try:
        yield
    except OSError as exc:
        if exc.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise StorageError(f"no room left while writing {target}: {exc.strerror}; the old state is intact") from exc
        raise StorageError(f"cannot write {target}: {exc.strerror or exc}; the old state is intact") from exc


@contextlib.contextmanager
def memory_errors(target: Path) -> Iterator[None]:
    """Map what numpy, onnx-ir and torch raise where the memory does not suffice to StorageError."""
    try:
        yield
    except (MemoryError, RuntimeError) as exc:
        if isinstance(exc, RuntimeError) and not _TORCH_HAS_NO_MEMORY.search(str(exc)):
            raise
        raise StorageError(f"not enough memory to make {target}; the old state is intact") from exc


@contextlib.contextmanager
def _in_place(target: Path) -> Iterator[None]:
    """What is new has its name already: an error may lose it at a power failure, and brings nothing old back."""
    try:
        yield
    except OSError as exc:
        raise StorageError(
            f"{target} is written and in place, but the disk did not confirm it ({exc.strerror or exc}); "
            "a power failure may bring the old state back"
        ) from exc


def replace_file(path: Path, data: bytes, *, shown: Path | None = None) -> None:
    """Replace a file's content in one step; after a crash the old or the new content is there.

    Args:
        path: the file. One that is there keeps its mode; a new one has what the umask gives.
        data: its new content.
        shown: what messages call it.

    Raises:
        InvalidInputError: there is something that is no regular file.
        StorageError: the file cannot be written.
    """
    shown = shown or path
    if path.exists() and not path.is_file():
        raise InvalidInputError(f"{shown} is no regular file; give another one")
    stage = new_file(path)
    with storage_errors(shown):
        try:
            sweep_files(path)
            with stage.open("xb") as file:
                lock(file.fileno())
                if path.exists():
                    stage.chmod(stat.S_IMODE(path.stat().st_mode))
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            stage.replace(path)
            with _in_place(shown):
                _sync(path.parent)
        finally:
            with contextlib.suppress(OSError):  # it is swept by the next one
                stage.unlink(missing_ok=True)


def check_target(target: Path, *, overwrite: bool) -> None:
    """Raise InvalidInputError when `staged_folder` would refuse `target`."""
    target = resolved(target)
    if not target.parent.is_dir():
        raise InvalidInputError(f"{target.parent} is not a folder; make it first")
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise InvalidInputError(f"{target} exists and is not a folder")
    if not target.exists():
        return
    _check_is_no_mount(target)
    if not overwrite:
        raise InvalidInputError(f"{target} exists; give another folder, or allow to overwrite it", hint="--overwrite")
    if any(target.iterdir()):
        _check_is_bundle(target)


def _check_is_no_mount(target: Path) -> None:
    if target == target.parent or os.path.ismount(target) or str(target) in _mount_points():
        raise InvalidInputError(f"{target} is a mount point, which no folder can take the place of; give one in it")


def _mount_points() -> set[str]:
    """As Linux lists them: another part of the same disk that is mounted there looks like any folder otherwise."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return set()
    # proc_pid_mountinfo(5): the fifth field, with blanks as \040
    fields = (line.split(" ") for line in lines)
    return {re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), field[4]) for field in fields if len(field) > 4}


def _check_is_bundle(folder: Path) -> None:
    """Refuse to replace what is no bundle, or a bundle with somebody's own files in it."""
    try:
        listed = {*read_json_object(folder / MANIFEST_FILE, ValueError)["files"], MANIFEST_FILE}
    except (ValueError, KeyError, TypeError) as exc:
        raise InvalidInputError(f"{folder} exists and is no bundle; it will not be replaced") from exc
    own = [
        name
        for path in folder.rglob("*")
        if (name := str(path.relative_to(folder))) not in listed
        and not path.is_dir()
        and not (path.parent == folder and is_unfinished_file(path, MANIFEST_FILE))  # what a killed verify left
    ]
    if own:
        raise InvalidInputError(f"{folder} holds {own[0]}, which is no part of the bundle; move it before replacing")


def _put_in_place(stage: Path, target: Path) -> None:
    if not target.exists():
        stage.rename(target)
        return
    if _exchange(stage, target):
        return  # `stage` now holds the old folder; the caller removes it
    retired = stage.with_name(stage.name + "-old")
    target.rename(retired)
    try:
        stage.rename(target)
    except OSError:
        retired.rename(target)
        raise
    shutil.rmtree(retired, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two paths atomically (Linux `renameat2`); False where system or file system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}:
        return False
    raise OSError(code, os.strerror(code), str(second))


def _keep_modes(stage: Path, target: Path, fresh_mode: int) -> None:
    """Give the new folder, and everything in it that takes the place of something, the mode of that."""
    for path in stage.rglob("*"):
        old = target / path.relative_to(stage)
        if old.exists() and old.is_dir() == path.is_dir():
            path.chmod(stat.S_IMODE(old.stat().st_mode))
    stage.chmod(stat.S_IMODE(target.stat().st_mode) if target.exists() else fresh_mode)


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
