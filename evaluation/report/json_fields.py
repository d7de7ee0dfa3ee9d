"""Fields of JSON objects that others wrote: of the expected type, or an error that names the file and the field."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codegen_edge.errors import InvalidInputError

_LARGEST = 1e300  # integers of JSON have no bound, floats do
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """A JSON object and where it stands.

    Args:
        where: the file and the line, as an error names them.
        values: the object.
    """

    where: str
    values: Mapping[str, Any]  # JSON: anything

    def text(self, name: str) -> str:
        """A string that must be there."""
        value = self.values.get(name)
        if not isinstance(value, str):
            raise self.wrong(name, "a string")
        return cleaned(value)

    def optional_text(self, name: str) -> str:
        """A string; empty where it is missing or null."""
        return "" if self.values.get(name) is None else self.text(name)

    def truth(self, name: str) -> bool:
        """True or false, which must be there."""
        value = self.values.get(name)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def count(self, name: str) -> int:
        """A whole number of 0 or more, which must be there."""
        value = self.values.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.wrong(name, "a whole number of 0 or more")
        return value

    def optional_count(self, name: str) -> int | None:
        """A whole number of 0 or more; None where it is missing or null."""
        return None if self.values.get(name) is None else self.count(name)

    def optional_number(self, name: str) -> float | None:
        """A finite number; None where it is missing or null."""
        value = self.values.get(name)
        return None if value is None else self.finite(name, value)

    def finite(self, name: str, value: object) -> float:
        """`value` as a float.

        Raises:
            InvalidInputError: it is no number, or not a finite one.
        """
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > _LARGEST or math.isnan(value):
            raise self.wrong(name, "a finite number")
        return float(value)

    def object(self, name: str) -> Fields:
        """An object that must be there."""
        value = self.values.get(name)
        if not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return Fields(where=f"{self.where}, {name}", values=value)

    def wrong(self, name: str, wanted: str) -> InvalidInputError:
        """The error of a field that is not what was wanted."""
        found = "missing" if name not in self.values else f"{json.dumps(self.values[name])[:40]}"
        return InvalidInputError(f"{self.where}: {name} must be {wanted}, it is {found}")


def cleaned(text: str) -> str:
    """The text without what no HTML or XML document may hold: lone surrogates and control characters."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _FORBIDDEN.sub("\ufffd", text)


def read_object(path: Path) -> Fields:
    """A file that holds one JSON object.

    Raises:
        InvalidInputError: it cannot be read, or holds something else.
    """
    return _parsed(_read(path), str(path))


def read_lines(path: Path) -> Iterator[Fields]:
    """The objects of a file with one on each line, without a last line that was being written.

    Raises:
        InvalidInputError: the file cannot be read, or a line that was written to its end is no object.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                where = f"{path} line {number}"
                if line.endswith(b"\n"):
                    yield _parsed(line, where)
                    continue
                try:
                    last = _parsed(line, where)
                except InvalidInputError:
                    return  # whoever wrote it was stopped, or has not finished
                yield last
    except OSError as exc:
        raise InvalidInputError(f"{path} cannot be read: {exc.strerror}") from exc


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise InvalidInputError(f"{path} cannot be read: {exc.strerror}") from exc


def _parsed(data: bytes, where: str) -> Fields:
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as exc:  # a UnicodeDecodeError is a ValueError
        raise InvalidInputError(f"{where} is damaged: no JSON ({exc})") from exc
    if not isinstance(value, dict):
        raise InvalidInputError(f"{where} is damaged: a JSON object was expected, found {type(value).__name__}")
    return Fields(where=where, values=value)
