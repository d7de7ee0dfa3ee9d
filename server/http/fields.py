"""Fields of a JSON object, each read once, with its type and range."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from codegen_edge.server.http.errors import bad_request


class Fields:
    """A request's fields; those that nobody read are left over.

    null stands for a field that is not there, as in OpenAI's API.

    Args:
        body: what came.
    """

    def __init__(self, body: Any) -> None:
        if not isinstance(body, Mapping):
            raise bad_request("the body must be a JSON object")
        self._body = {name: value for name, value in body.items() if value is not None}
        self._read: set[str] = set()

    @property
    def ignored(self) -> list[str]:
        """Fields that were not read."""
        return sorted(self._body.keys() - self._read)

    def __contains__(self, name: str) -> bool:
        return name in self._body

    def get(self, name: str, default: Any = None) -> Any:
        """A value of any type."""
        self._read.add(name)
        return self._body.get(name, default)

    def skip(self, *names: str) -> None:
        """Take fields that mean nothing here."""
        self._read.update(names)

    def text(self, name: str, default: str | None = None, *, most: int = 1 << 20) -> str | None:
        """A string."""
        value = self.get(name, default)
        if value is not None and (not isinstance(value, str) or len(value) > most):
            raise bad_request(f"{name} must be a string of at most {most} characters", name)
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """true or false."""
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise bad_request(f"{name} must be true or false, got {_shown(value)}", name)
        return value

    def whole(self, name: str, default: int | None, lowest: int, highest: int) -> int | None:
        """A whole number in a range."""
        value = self.get(name, default)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            raise bad_request(f"{name} must be a whole number in {lowest}…{highest}, got {_shown(value)}", name)
        return value

    def number(self, name: str, default: float, lowest: float, highest: float) -> float:
        """A number in a range."""
        value = self.get(name, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or not lowest <= value <= highest:
            raise bad_request(f"{name} must be a number in {lowest:g}…{highest:g}, got {_shown(value)}", name)
        return float(value)

    def texts(self, name: str, *, most: int, longest: int) -> tuple[str, ...]:
        """A string or a list of them; empty ones are dropped."""
        value = self.get(name, [])
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
            raise bad_request(f"{name} must be a string or a list of strings", name)
        if len(values) > most or any(len(each) > longest for each in values):
            raise bad_request(f"{name} takes at most {most} strings of {longest} characters", name)
        return tuple(each for each in values if each)

    def ids(self, name: str, *, most: int, vocab_size: int) -> tuple[int, ...]:
        """A list of token ids."""
        value = self.get(name, [])
        if not isinstance(value, list) or len(value) > most:
            raise bad_request(f"{name} must be a list of at most {most} token ids", name)
        return token_ids(value, name, vocab_size)


def token_ids(values: list[Any], name: str, vocab_size: int) -> tuple[int, ...]:
    """Check token ids."""
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < vocab_size:
            raise bad_request(f"{name} holds {_shown(value)}, token ids are in 0…{vocab_size - 1}", name)
    return tuple(values)


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}…"
