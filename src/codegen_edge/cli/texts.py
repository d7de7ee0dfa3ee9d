"""Reading the text files that commands are given."""

from __future__ import annotations

from pathlib import Path

from codegen_edge.errors import InvalidInputError


def read_text(path: Path) -> str:
    """The content of a UTF-8 file.

    Raises:
        InvalidInputError: it cannot be read, is not UTF-8, or is empty.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as exc:
        raise InvalidInputError(f"{path} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise InvalidInputError(f"{path} is not UTF-8 at byte {exc.start}") from exc
    if not text.strip():
        raise InvalidInputError(f"{path} is empty")
    return text
