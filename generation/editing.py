"""Helpers for changing code in its middle."""

from __future__ import annotations

from codegen_edge.errors import InvalidInputError


def suffix_stops(suffix: str) -> tuple[str, ...]:
    """Stop strings at which a text has reached the `suffix` that is to follow it.

    The suffix's beginning, to the end of its first line that is not blank; and that line at the beginning of a line,
    however many blank lines lie before it. The line has to end there, too, where it does in the suffix.

    Raises:
        InvalidInputError: the suffix is blank: every text would meet it.
    """
    if not suffix.strip():
        raise InvalidInputError("the suffix is blank; give at least the line that follows")
    suffix = suffix.replace("\r\n", "\n")  # generated text has no others
    start = len(suffix) - len(suffix.lstrip())
    line_start = suffix.rfind("\n", 0, start) + 1
    end = suffix.find("\n", start)
    end = len(suffix) if end < 0 else end + 1
    beginning, line = suffix[:end], suffix[line_start:end]
    return tuple(dict.fromkeys((beginning, f"\n{line}")))
