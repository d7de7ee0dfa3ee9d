"""Writing a folder or a file so that a crash or a full disk leaves the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from codegen_edge.errors import InvalidInputError, StorageError

try:
    import fcntl
except ImportError:  # Windows: no such locks; what a process that died left is then not cleaned up
    fcntl = None  # type: ignore[assignment]

MANIFEST_FILE = "bundle.json"

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
    target = Path(os.path.abspath(target))
    if target.parent.is_dir():
        with storage_errors(target), _locked(target.parent):
            _remove_abandoned(target)
    check_target(target, overwrite=overwrite)
    stage = target.parent / f".{target.name}.tmp-{secrets.token_hex(8)}"
    with contextlib.ExitStack() as stack:
        with storage_errors(target), _locked(target.parent):
            stage.mkdir()
            stack.enter_context(_locked(stage))  # for as long as this process works on it
        try:
            yield stage
            with storage_errors(target), _locked(target.parent):
                _sync_tree(stage)
                check_target(target, overwrite=overwrite)  # another process may have made it meanwhile
                _put_in_place(stage, target)
                _sync(target.parent)
        finally:
            shutil.rmtree(stage, ignore_errors=True)


@contextlib.contextmanager
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
        raise InvalidInputError(f"{target} exists; give another folder, or allow to overwrite it", hint="--overwrite")
    if any(target.iterdir()):
        _check_is_bundle(target)


def _check_is_bundle(folder: Path) -> None:
    """Refuse to replace what is no bundle, or a bundle with somebody's own files in it."""
    try:
        listed = {*json.loads((folder / MANIFEST_FILE).read_bytes())["files"], MANIFEST_FILE}
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise InvalidInputError(f"{folder} exists and is no bundle; it will not be replaced") from exc
    own = [
        name for path in folder.rglob("*") if path.is_file() and (name := str(path.relative_to(folder))) not in listed
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


def _remove_abandoned(target: Path) -> None:
    """Remove what a process that died left behind; put an old folder back if it died between two renames."""
    pattern = re.compile(re.escape(f".{target.name}.tmp-") + r"[0-9a-f]{16}(-old)?")
    for path in sorted(target.parent.iterdir(), reverse=True):
        match = pattern.fullmatch(path.name)
        if match is None or not _is_abandoned(path):
            continue
        if match[1] and not target.exists():
            path.rename(target)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _is_abandoned(stage: Path) -> bool:
    """Whether no process holds the folder's lock; a lock ends with its process, in whichever container that ran."""
    if fcntl is None:
        return False
    descriptor = os.open(stage, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold an advisory lock on a folder, where the system has such locks."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


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
