"""JSON lines that users give, plain or compressed by gzip; an error names the file and the line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codegen_edge.errors import InvalidInputError

_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One line.

    Attributes:
        where: file and line, for errors.
        fields: the JSON object.
    """

    where: str
    fields: dict[str, Any]

    def text(self, name: str) -> str:
        """The field `name`, which must be a text.

        Raises:
            InvalidInputError: it is missing or something else.
        """
        value = self.value(name)
        if not isinstance(value, str):
            raise self.error(f'"{name}" must be a text, got {type(value).__name__}')
        return value

    def values(self, name: str) -> list[Any]:
        """The field `name`, which must be a list with at least one element.

        Raises:
            InvalidInputError: it is missing, empty or something else.
        """
        value = self.value(name)
        if not isinstance(value, list) or not value:
            raise self.error(f'"{name}" must be a list of at least one element')
        return value

    def value(self, name: str) -> Any:
        """The field `name`, whatever it is.

        Raises:
            InvalidInputError: it is missing.
        """
        if name not in self.fields:
            raise self.error(f'"{name}" is missing')
        return self.fields[name]

    def error(self, problem: str) -> InvalidInputError:
        """An error that says where."""
        return InvalidInputError(f"{self.where}: {problem}")


def read_records(path: Path) -> Iterator[Record]:
    """The JSON objects of a file, one per line; empty lines are passed over.

    Args:
        path: of JSON lines; what begins as gzip does is decompressed, whatever the file's name.

    Raises:
        InvalidInputError: the file cannot be read, or a line is no JSON object.
    """
    try:
        data = path.read_bytes()
        if data.startswith(_GZIP_MAGIC):
            data = gzip.decompress(data)
    except OSError as exc:
        raise InvalidInputError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    except (EOFError, zlib.error) as exc:
        raise InvalidInputError(f"{path} is damaged: {exc}") from exc
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line.strip():
            yield Record(where=f"{path}, line {number}", fields=_object(line, f"{path}, line {number}"))


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        fields = json.loads(line.decode())
    except (ValueError, RecursionError) as exc:
        raise InvalidInputError(f"{where}: no JSON ({exc})") from exc
    if not isinstance(fields, dict):
        raise InvalidInputError(f"{where}: a JSON object was expected, got {type(fields).__name__}")
    return fields
