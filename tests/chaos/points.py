"""Every call that changes a disk is a point: counted, and at a chosen one something happens."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

from codegen_edge.bundle import storage

Happening = Callable[[int, str], None]
"""Called before each point with its number, from 0, and its name; what it raises is raised there."""

_CALLS = ("fsync", "rename", "replace", "mkdir", "rmdir", "unlink", "chmod", "link", "symlink", "truncate")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class _WatchedFile:
    """A file that is open for writing: each write is a point."""

    def __init__(self, file: Any, at_point: Callable[[str], None]) -> None:
        self._file = file
        self._at_point = at_point

    def write(self, content: Any) -> int:
        """A point."""
        self._at_point("write")
        written: int = self._file.write(content)
        self._file.flush()  # what a kill at the next point finds is what was written until then
        return written

    def __enter__(self) -> _WatchedFile:
        self._file.__enter__()
        return self

    def __exit__(self, *raised: Any) -> Any:
        return self._file.__exit__(*raised)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextlib.contextmanager
def watched(happening: Happening) -> Iterator[list[str]]:
    """Watch this process in the `with` block; gives the names of the points so far."""
    names: list[str] = []

    def at_point(name: str) -> None:
        names.append(name)
        happening(len(names) - 1, name)

    def as_point(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            at_point(name)
            return call(*arguments, **options)

        return called

    open_file, open_descriptor, exchange = io.open, os.open, storage._exchange

    def watched_open(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if not set(mode) & set("wxa+"):
            return open_file(file, mode, *arguments, **options)
        at_point("open")
        return _WatchedFile(open_file(file, mode, *arguments, **options), at_point)

    def watched_descriptor(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & _WRITING:
            at_point("open")
        return open_descriptor(path, flags, *arguments, **options)

    replaced = [(os, name, as_point(name, getattr(os, name))) for name in _CALLS]
    replaced += [(io, "open", watched_open), (os, "open", watched_descriptor)]
    replaced += [(storage, "_exchange", as_point("exchange", exchange))]
    before = [(home, name, getattr(home, name)) for home, name, _ in replaced]
    for home, name, call in replaced:
        setattr(home, name, call)
    try:
        yield names
    finally:
        for home, name, call in before:
            setattr(home, name, call)


def error_at(number: int, code: int = errno.EIO, *, for_ever: bool = False) -> Happening:
    """The system refuses the call with this number, or all from there on."""

    def happening(point: int, name: str) -> None:
        if point == number or (for_ever and point > number):
            raise OSError(code, os.strerror(code))

    return happening


def kill_at(number: int) -> Happening:
    """The process is killed in front of the call with this number."""

    def happening(point: int, name: str) -> None:
        if point == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return happening


def nothing(point: int, name: str) -> None:
    """Points are counted only."""
