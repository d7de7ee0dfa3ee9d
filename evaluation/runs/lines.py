"""A file of JSON lines that grows by whole batches and survives kills and full disks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from codegen_edge.bundle.storage import replace_file, storage_errors
from codegen_edge.errors import InvalidInputError


class LinesFile:
    """JSON objects, one per line. One process writes it at a time.

    Args:
        path: of the file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """The objects. What a process that died left of a last line is cut off.

        Raises:
            InvalidInputError: a line that was written to its end is no JSON object.
        """
        if not self.path.is_file():
            return []
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with storage_errors(self.path):
                os.truncate(self.path, whole)
        return [self._object(line, number) for number, line in enumerate(data[:whole].splitlines(), start=1)]

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write objects behind the others; they are on the disk when this returns.

        Raises:
            StorageError: they could not be written; the file is as before.
        """
        data = _encoded(records)
        with storage_errors(self.path), self.path.open("ab") as file:
            before = file.tell()
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.truncate(self.path, before)
                raise

    def replace(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write the file anew, in one step; raise StorageError and keep the old one where that fails."""
        replace_file(self.path, _encoded(records))

    def _object(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            value = json.loads(line)
        except ValueError as exc:
            raise InvalidInputError(f"{self.path}, line {number}: no JSON ({exc})") from exc
        if not isinstance(value, dict):
            raise InvalidInputError(f"{self.path}, line {number}: a JSON object was expected")
        return value


def _encoded(records: Iterable[Mapping[str, Any]]) -> bytes:
    # Escaped to ASCII: a completion may hold lone surrogates, which UTF-8 cannot encode.
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)
