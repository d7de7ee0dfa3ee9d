"""What an exception of a program is called. The kinds are those of `programs.FailureKind`."""

from __future__ import annotations

import errno

MAX_MESSAGE = 300

_FULL = (errno.EFBIG, errno.ENOSPC, errno.EDQUOT)
_KINDS: tuple[tuple[type[BaseException], str], ...] = (
    (SyntaxError, "syntax"),
    (NameError, "name"),
    (AssertionError, "assertion"),
    (MemoryError, "memory"),
    (SystemExit, "exit"),
)


def failure(exc: BaseException) -> dict[str, object]:
    """The report on an exception that ended a program."""
    kind = next((kind for base, kind in _KINDS if isinstance(exc, base)), "exception")
    if isinstance(exc, OSError) and exc.errno in _FULL:
        kind = "output"
    return failed(kind, described(exc))


def failed(kind: str, message: str) -> dict[str, object]:
    """The report on a program that did not pass."""
    return {"end": "failed", "kind": kind, "message": message}


def described(exc: BaseException) -> str:
    """Its type and text in a line; the text is the program's own code, and may itself fail."""
    try:
        text = one_line(str(exc))
    except BaseException:  # noqa: BLE001 - a program's __str__ may raise anything
        text = "(its text cannot be shown)"
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def one_line(text: str) -> str:
    """Without line breaks and of bounded length."""
    return " ".join(text[: 4 * MAX_MESSAGE].split())[:MAX_MESSAGE]
