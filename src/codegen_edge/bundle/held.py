"""A folder held by descriptor: what is read through it belongs to one folder, whatever its path names meanwhile.

A writer replaces a bundle by exchanging two folders. Whoever checks files and then opens them again by path may so
check one bundle and load the other. On Linux the folder is therefore opened once, and every file is opened below
`/proc/self/fd/N`, which stays with the folder when its path names another one.

Where `/proc` does not exist the files are opened by path. Then, and on Linux as well, the identity of each file that
was checked (device, inode, size and time of its last change) is compared after it was loaded; without `/proc` also
that of the folder, whose own time of change moves with every exchange.
"""

from __future__ import annotations

import os
import stat
import weakref
from collections.abc import Callable
from pathlib import Path

Identity = tuple[int, ...]

_DESCRIPTORS = Path("/proc/self/fd")


class HeldFolder:
    """An open folder; it is let go when nothing refers to it any more.

    Args:
        path: the folder.

    Attributes:
        path: as it was given, for messages.
        root: where its files are opened.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root = path
        self._descriptor: int | None = None
        self._files: dict[str, Identity] = {}
        if hasattr(os, "O_DIRECTORY"):  # Windows opens no folders
            self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self._descriptor).atexit = False
            self._changed_ns = os.fstat(self._descriptor).st_ctime_ns  # renaming it counts as a change
            root = _DESCRIPTORS / str(self._descriptor)
            if _same(root, os.fstat(self._descriptor)):
                self.root = root
        self._folder = None if self.is_pinned else _folder_identity(path)

    @property
    def is_pinned(self) -> bool:
        """Whether files are opened through the descriptor, and not by path."""
        return self.root is not self.path

    @property
    def is_replaced(self) -> bool:
        """Whether its path names another folder now, or none."""
        if self._descriptor is None:
            return _folder_identity(self.path) != self._folder
        return not _same(self.path, os.fstat(self._descriptor))

    @property
    def is_moved(self) -> bool:
        """Whether it may have been elsewhere since it was opened, even if it is back: paths were resolved wrongly."""
        if self._descriptor is None:
            return self.is_replaced
        return self.is_replaced or os.fstat(self._descriptor).st_ctime_ns != self._changed_ns

    def at(self, name: str) -> Path:
        """Where a file of the folder is opened."""
        return self.root / name

    def record(self, name: str, status: os.stat_result) -> None:
        """Remember the identity of a file that was checked."""
        self._files[name] = file_identity(status)

    def changed_file(self) -> str | None:
        """The first of the recorded files that is another one now, "" for the folder itself, or None."""
        for name, identity in self._files.items():
            try:
                if file_identity(os.stat(self.at(name))) != identity:
                    return name
            except OSError:
                return name
        if not self.is_pinned and self.is_replaced:
            return ""
        return None

    def __deepcopy__(self, memo: dict[int, object]) -> HeldFolder:
        return self  # the descriptor is closed once

    def __reduce__(self) -> tuple[Callable[..., HeldFolder], tuple[Path, dict[str, Identity]]]:
        return _held_again, (self.path, self._files)


def _held_again(path: Path, files: dict[str, Identity]) -> HeldFolder:
    """In another process: the folder at the path, whose files must be those that were checked in the first one."""
    folder = HeldFolder(path)
    folder._files = dict(files)
    return folder


def file_identity(status: os.stat_result) -> Identity:
    """Device, inode, size and time of the last change of a file's bytes."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def open_regular(path: Path) -> int:
    """A descriptor of a regular file; raise OSError for everything else, without waiting at a pipe.

    Raises:
        OSError: the file cannot be opened, or is a folder, a pipe or a device.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is no regular file")
    return descriptor


def _same(path: Path, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), status)
    except OSError:
        return False


def _folder_identity(path: Path) -> Identity | None:
    """Device, inode and time of the last change of a folder or of its name."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_ctime_ns
