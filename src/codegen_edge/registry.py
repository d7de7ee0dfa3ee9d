"""Parts by name, each in a file of its own that is imported when it is first asked for."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any, Generic, TypeVar, cast

from codegen_edge.errors import InvalidInputError

_Part = TypeVar("_Part")


def load_part(home: str) -> Any:
    """What "module:attribute" names; its module is imported."""
    module, _, attribute = home.partition(":")
    return getattr(import_module(module), attribute)


class Registry(Generic[_Part]):
    """Parts of one kind. What is registered here is in the command line's choices and help, and in the tests.

    Args:
        kind: what a part is, for errors, for example "scheme".
        homes: "module:attribute" by name, in the order in which they are listed.
    """

    def __init__(self, kind: str, homes: dict[str, str]) -> None:
        self.kind = kind
        self._homes = dict(homes)

    def register(self, name: str, home: str) -> None:
        """Add a part.

        Args:
            name: by which it is asked for.
            home: "module:attribute"; the module need not be importable yet.

        Raises:
            InvalidInputError: the name is taken, or the home is of another form.
        """
        if name in self._homes:
            raise InvalidInputError(f"there is a {self.kind} {name!r} already")
        if home.count(":") != 1:
            raise InvalidInputError(f'a {self.kind} is registered as "module:attribute", got {home!r}')
        self._homes[name] = home

    def find(self, name: str) -> _Part:
        """The part of a name; raise InvalidInputError where there is none."""
        if name not in self._homes:
            raise InvalidInputError(f"there is no {self.kind} {name!r}; there are: {', '.join(self._homes)}")
        return cast(_Part, load_part(self._homes[name]))

    def __iter__(self) -> Iterator[str]:
        """The names, in the order of their registration."""
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)

    def __contains__(self, name: object) -> bool:
        return name in self._homes
