"""What a process leaves behind when it is killed while it writes, and how the next one tells it from work in progress.

Every folder and file that is being written is locked for as long as its process works on it. A lock ends with its
process, in whichever container that ran, so what is not locked was abandoned. Some file systems have no such locks;
there nothing is locked, and nothing is taken for abandoned.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: no such locks; what a process that died left is then not cleaned up
    fcntl = None  # type: ignore[assignment]

_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF}  # EBADF: NFS, of a folder

_FILE = r"\.{name}\.tmp-(\d+)-[0-9a-f]{{8}}"
_STAGE = r"\.{name}\.tmp-[0-9a-f]{{16}}(-old)?"
_WORK = re.compile(r"\.codegen-edge-[a-z]+-(?:([0-9a-f]{16})|[a-z0-9_]{8})")
_SECONDS_OF_A_WRITE = 60  # a file that is replaced is locked a moment after it was made, and freed one before
_SECONDS_OF_A_BUILD = 86_400  # of such a folder that an earlier version made: it locked none


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold an advisory lock on a folder, where the system has such locks."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def lock(descriptor: int) -> None:
    """Wait for the lock of an open file or folder and keep it until it is closed; nothing without such locks."""
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as exc:
        if exc.errno not in _NO_LOCKS:
            raise


def new_stage(target: Path) -> Path:
    """The name of a folder that is to take the place of `target`."""
    return target.parent / f".{target.name}.tmp-{secrets.token_hex(8)}"


def new_file(path: Path) -> Path:
    """The name of a file that is to take the place of `path`."""
    return path.parent / f".{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"


def is_unfinished_file(path: Path, name: str) -> bool:
    """Whether a file is what `new_file` names for `name`."""
    return re.fullmatch(_FILE.format(name=re.escape(name)), path.name) is not None


@contextlib.contextmanager
def working_folder(parent: Path, purpose: str) -> Iterator[Path]:
    """An empty folder below `parent` that is removed at the end; those of processes that died are removed first."""
    with locked(parent):
        sweep_work(parent)
        folder = parent / f".codegen-edge-{purpose}-{secrets.token_hex(8)}"
        folder.mkdir(mode=0o700)
        lock_of_folder = contextlib.ExitStack()
        lock_of_folder.enter_context(locked(folder))
    with lock_of_folder:
        try:
            inner = folder / purpose  # whoever writes a bundle into it locks it: `folder` has its lock already
            inner.mkdir()
            yield inner
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def sweep_stages(target: Path) -> None:
    """Remove abandoned stages of `target`; put the old folder back where a process died between two renames."""
    pattern = re.compile(_STAGE.format(name=re.escape(target.name)))
    for path in sorted(target.parent.iterdir(), reverse=True):
        match = pattern.fullmatch(path.name)
        if match is None or not _is_unlocked(path):
            continue
        if match[1] and not target.exists():
            path.rename(target)
        else:
            shutil.rmtree(path, ignore_errors=True)


def sweep_work(parent: Path) -> None:
    """Remove working folders in `parent` that were abandoned."""
    for path in parent.iterdir():
        match = _WORK.fullmatch(path.name)
        if match is None or path.is_symlink() or not path.is_dir() or not _is_unlocked(path):
            continue
        if match[1] or _age_seconds(path) > _SECONDS_OF_A_BUILD:
            shutil.rmtree(path, ignore_errors=True)


def sweep_files(path: Path) -> None:
    """Remove what was to take the place of the file `path` and was abandoned."""
    pattern = re.compile(_FILE.format(name=re.escape(path.name)))
    for stage in path.parent.iterdir():
        match = pattern.fullmatch(stage.name)
        if match is None or not stage.is_file() or not _is_unlocked(stage):
            continue
        if not _is_alive(int(match[1])) or _age_seconds(stage) > _SECONDS_OF_A_WRITE:
            stage.unlink(missing_ok=True)


def _is_unlocked(path: Path) -> bool:
    """Whether no process holds the lock of a file or folder."""
    if fcntl is None:
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:  # it is gone, or somebody else's
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True


def _age_seconds(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0
