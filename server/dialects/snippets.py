"""Code of other files, which editors send along: the model knows no place for it but comments in front."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from codegen_edge.server.http.errors import bad_request

_HASH = "#"
_MARKERS = {
    **dict.fromkeys(("c", "h", "cc", "cpp", "cxx", "hpp", "cs", "go", "java", "js", "jsx", "mjs", "ts", "tsx"), "//"),
    **dict.fromkeys(("rs", "kt", "swift", "scala", "dart", "php", "m", "proto", "zig", "css", "scss"), "//"),
    **dict.fromkeys(("javascript", "typescript", "javascriptreact", "typescriptreact", "csharp", "rust"), "//"),
    **dict.fromkeys(("kotlin", "objective-c"), "//"),
    **dict.fromkeys(("sql", "lua", "hs", "haskell", "elm", "ada"), "--"),
    **dict.fromkeys(("vim", "viml"), '"'),
    **dict.fromkeys(("lisp", "el", "clj", "clojure", "scm"), ";;"),
    **dict.fromkeys(("tex", "latex", "erl", "erlang"), "%"),
}
"""What begins a comment, by the ending of a file's name or an editor's name of the language; # elsewhere."""

_MOST = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Snippet:
    """A piece of another file.

    Attributes:
        filename: of it; may be empty.
        text: of the piece.
    """

    filename: str
    text: str


def read_snippets(value: Any, field: str, *, filename: str, text: str) -> list[Snippet]:
    """Snippets of a list of objects.

    Args:
        value: what came in the field.
        field: its name.
        filename, text: names of the two inside.

    Raises:
        ApiError: 400 where it is something else.
    """
    if not isinstance(value, list) or len(value) > _MOST:
        raise bad_request(f"{field} must be a list of at most {_MOST} objects", field)
    snippets = []
    for each in value:
        name, content = (each.get(filename, ""), each.get(text)) if isinstance(each, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(content, str):
            raise bad_request(f"{field} must hold objects with a string {text} and a string {filename}", field)
        snippets.append(Snippet(filename=name, text=content))
    return snippets


def as_comments(snippets: Iterable[Snippet], language: str | None = None) -> str:
    """The snippets as comments, and an empty line, so that they comment on nothing that follows.

    Args:
        snippets: in the order in which they are to stand.
        language: an editor's name of it; None takes each file's own, by its name.
    """
    lines = []
    for snippet in snippets:
        marker = comment_marker(language or PurePath(snippet.filename).suffix.removeprefix("."))
        name = " ".join(snippet.filename.split())
        lines += [f"{marker} Path: {name}"] if name else []
        lines += [f"{marker} {line}".rstrip() for line in snippet.text.splitlines()]
    return "".join(f"{line}\n" for line in [*lines, ""]) if lines else ""


def comment_marker(language: str) -> str:
    """What begins a comment."""
    return _MARKERS.get(language.lower(), _HASH)
