"""Standard output and error on terminals that cannot show every character."""

from __future__ import annotations

import codecs
import sys

_HANDLER = "codegen_edge.escape"
_PLAIN = {"…": "...", "–": "-", "×": "x", "Δ": "d", "·": "-", "“": '"', "”": '"', "’": "'"}


def escape_unprintable_characters() -> None:
    """Write what an encoding lacks as ASCII or as an escape, where Python would raise an exception."""
    codecs.register_error(_HANDLER, _escaped)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=_HANDLER)


def _escaped(exc: UnicodeError) -> tuple[str, int]:
    if not isinstance(exc, UnicodeEncodeError):
        raise exc
    text = exc.object[exc.start : exc.end]
    return "".join(_PLAIN.get(each) or each.encode("ascii", "backslashreplace").decode() for each in text), exc.end
