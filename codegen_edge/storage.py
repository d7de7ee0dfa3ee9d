"""Writing a folder or a file so that a crash or a full disk leaves the old one or the new one, never half of one."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from codegen_edge.errors import InvalidInputError, StorageError

_CHUNK_BYTES = 4 * 1024 * 1024  # large enough to keep sha256 busy, small enough to stay in cache
_RENAME_EXCHANGE = 2  # linux/fs.h
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


@contextmanager
def staged_folder(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give an empty folder beside `target`; on success it takes target's place in one step.

    Args:
        target: the folder to make. Its parent must exist.
        overwrite: whether a folder that is there may be replaced. It is kept until the new one is whole.

    Raises:
        InvalidInputError: `target` exists and `overwrite` is false, or it is no folder, or has no parent folder.
        StorageError: the folder could not be made or put in place.
    """
    target = Path(os.path.abspath(target))
    if target.parent.is_dir():
        _remove_abandoned(target)
    check_target(target, overwrite=overwrite)
    stage = target.parent / f".{target.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"
    with storage_errors(target):
        stage.mkdir()
    try:
        yield stage
        with storage_errors(target):
            _sync_tree(stage)
            check_target(target, overwrite=overwrite)  # another process may have made it meanwhile
            _put_in_place(stage, target)
            _sync(target.parent)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@contextmanager
def storage_errors(target: Path) -> Iterator[None]:
    """Map an OSError raised while writing to StorageError, with the reason in words."""
    try:
        yield
    except OSError as exc:
        if exc.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise StorageError(f"no room left while writing {target}: {exc.strerror}; the old state is intact") from exc
        raise StorageError(f"cannot write {target}: {exc.strerror or exc}; the old state is intact") from exc


def replace_file(path: Path, data: bytes) -> None:
    """Replace a file's content in one step; after a crash the old or the new content is there."""
    stage = path.parent / f".{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"
    with storage_errors(path):
        try:
            with stage.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            stage.replace(path)
            _sync(path.parent)
        finally:
            stage.unlink(missing_ok=True)


def check_target(target: Path, *, overwrite: bool) -> None:
    """Raise InvalidInputError when `staged_folder` would refuse `target`."""
    target = Path(os.path.abspath(target))
    if not target.parent.is_dir():
        raise InvalidInputError(f"{target.parent} is not a folder; make it first")
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise InvalidInputError(f"{target} exists and is not a folder")
    if not target.exists():
        return
    if not overwrite:
        raise InvalidInputError(f"{target} exists; give another folder, or --overwrite to replace it")
    if any(target.iterdir()) and not (target / "bundle.json").is_file():
        raise InvalidInputError(f"{target} exists and is no bundle (no bundle.json); it will not be replaced")


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


def _remove_abandoned(target: Path) -> None:
    """Remove what a process that died left behind; put an old folder back if it died between two renames."""
    pattern = re.compile(re.escape(f".{target.name}.tmp-") + r"(\d+)-[0-9a-f]{8}(-old)?")
    for path in sorted(target.parent.iterdir(), reverse=True):
        match = pattern.fullmatch(path.name)
        if match is None or _is_alive(int(match[1])):
            continue
        if match[2] and not target.exists():
            path.rename(target)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


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
