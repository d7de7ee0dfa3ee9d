"""Paths on the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from codegen_edge.errors import InvalidInputError


class GivenPath(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """A path as it was given; an empty one, which Python takes for the working folder, is refused."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path, which need not exist; raise InvalidInputError where it can be none."""
        text = os.fspath(value)
        named = _named(param)
        if not text:
            raise InvalidInputError(f"{named} is empty; give a path")
        if "\0" in text:
            raise InvalidInputError(f"{named} holds a NUL character, which no path has")
        return Path(text)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Left to the shell, which knows how to complete a path."""
        return [CompletionItem(incomplete, type="file")]


def _named(param: click.Parameter | None) -> str:
    """An option as it is typed, an argument as the help names it."""
    if param is None:
        return "a path"
    return param.human_readable_name if isinstance(param, click.Argument) else max(param.opts, key=len)


PATH = GivenPath()
