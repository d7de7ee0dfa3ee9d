"""Comparing a bundle's files with what `bundle.json` says of them."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import PurePosixPath
from typing import BinaryIO, Literal, get_args

from codegen_edge.bundle.held import HeldFolder, file_identity, open_regular
from codegen_edge.bundle.manifest import FileRecord
from codegen_edge.bundle.storage import MANIFEST_FILE
from codegen_edge.errors import IntegrityError

Check = Literal["full", "size"]
CHECKS: tuple[Check, ...] = get_args(Check)

_CHUNK_BYTES = 4 * 1024 * 1024  # large enough to keep sha256 busy, small enough to stay in cache


def check_file(held: HeldFolder, name: str, record: FileRecord, check: Check) -> None:
    """Compare a file with its record, and remember which file it was: what is loaded later must be the same one.

    Raises:
        IntegrityError: it is missing, truncated or altered, or lies outside the bundle.
    """
    try:
        with _opened(held, name, record) as file:
            if check == "full":
                _compare(file, held, name, record)
    except OSError as exc:
        raise _unreadable(held, name, exc) from exc


class BackgroundCheck:
    """A file's sha256, computed in a thread while somebody else reads the file.

    Its size is compared, and its identity remembered, at once.

    Args:
        held: the folder.
        name: the file's path in it.
        record: what the file must be.

    Raises:
        IntegrityError: it is missing or truncated.
    """

    def __init__(self, held: HeldFolder, name: str, record: FileRecord) -> None:
        self._failure: IntegrityError | None = None
        try:
            file = _opened(held, name, record)
        except OSError as exc:
            raise _unreadable(held, name, exc) from exc
        self._identity = file_identity(os.fstat(file.fileno()))
        # A daemon: a process that ends early need not wait for the last gigabyte.
        self._thread = threading.Thread(target=self._run, args=(file, held, name, record), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait for the result; raise IntegrityError where the file was altered."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self, file: BinaryIO, held: HeldFolder, name: str, record: FileRecord) -> None:
        try:
            with file:
                _compare(file, held, name, record)
                if file_identity(os.fstat(file.fileno())) != self._identity:
                    # Whoever read it meanwhile may have read other bytes than were hashed.
                    raise IntegrityError(f"{held.path / name} was changed while it was read; open the bundle again")
        except IntegrityError as exc:
            self._failure = exc
        except OSError as exc:
            self._failure = _unreadable(held, name, exc)


def _opened(held: HeldFolder, name: str, record: FileRecord) -> BinaryIO:
    """The file, which has the size that it must have."""
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or not name.isprintable():
        raise IntegrityError(f"{held.path / MANIFEST_FILE} lists a path outside the bundle: {name!r}")
    path = held.path / name
    if not held.at(name).is_file():
        raise IntegrityError(f"{path} is missing; export the checkpoint again")
    file = os.fdopen(open_regular(held.at(name)), "rb")
    status = os.fstat(file.fileno())
    if status.st_size != record.size_bytes:
        file.close()
        raise IntegrityError(
            f"{path} has {status.st_size} bytes, {record.size_bytes} were exported: it was truncated or altered"
        )
    held.record(name, status)
    return file


def _compare(file: BinaryIO, held: HeldFolder, name: str, record: FileRecord) -> None:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    if digest.hexdigest() != record.sha256:
        raise IntegrityError(f"{held.path / name} was altered: its sha256 is not the one in {MANIFEST_FILE}")


def _unreadable(held: HeldFolder, name: str, exc: OSError) -> IntegrityError:
    return IntegrityError(f"{held.path / name} cannot be read: {exc.strerror or exc}")
