"""Lines that are whole in any width: what is long goes on below, and nothing is cut."""

from __future__ import annotations

import textwrap

from rich.console import Console

_LEAST_WIDTH = 60


def described(label: str, text: str, console: Console, *, indent: int) -> str:
    """A label and its text, wrapped at words behind the label; a word longer than a line stands by itself."""
    width = max(_LEAST_WIDTH, console.width)
    lines = textwrap.wrap(text, width - indent, break_long_words=False, break_on_hyphens=False) or [""]
    first = f"{label:<{indent}}{lines[0]}".rstrip()
    return "\n".join([first, *(" " * indent + line for line in lines[1:])])
