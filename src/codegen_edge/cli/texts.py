"""Reading the text files that commands are given."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO

from codegen_edge.errors import InvalidInputError

_MOST_TEXT_BYTES = 256 * 1024 * 1024  # of a text to measure or calibrate with
# A context of 2,048 tokens holds at most 1 MiB: CodeGen's longest token has 128 characters of up to 4 bytes.
_MOST_PROMPT_BYTES = 16 * 1024 * 1024


def read_text(path: Path) -> str:
    """The content of a UTF-8 file.

    Raises:
        InvalidInputError: it cannot be read, is not UTF-8, is empty or too large.
    """
    text = _read(path, _MOST_TEXT_BYTES, "it is too large for a text to read at once")
    if not text.strip():
        raise InvalidInputError(f"{path} is empty")
    return text


def read_prompt(path: Path) -> str:
    """The content of a UTF-8 file, or of stdin for `-`; of one without end no more is read than any context can hold.

    Raises:
        InvalidInputError: it cannot be read, is not UTF-8, or is longer.
    """
    return _read(path, _MOST_PROMPT_BYTES, "no context holds as much; give its end only, as with tail -c 1000000")


def _read(path: Path, most_bytes: int, reason: str) -> str:
    try:
        if str(path) == "-":
            if sys.stdin is None or sys.stdin.closed:
                raise InvalidInputError("the prompt is to come from stdin, which is closed; give it with --prompt")
            content = _read_at_most(sys.stdin.buffer, most_bytes)
        else:
            with path.open("rb") as file:
                content = _read_at_most(file, most_bytes)
        if len(content) > most_bytes:
            raise InvalidInputError(f"{path} has more than {most_bytes:,} bytes: {reason}")
        return content.decode("utf-8")
    except OSError as exc:
        raise InvalidInputError(f"{path} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise InvalidInputError(f"{path} is not UTF-8 at byte {exc.start}") from exc
    except MemoryError as exc:
        raise InvalidInputError(f"{path} does not fit in the memory that is free") from exc


def _read_at_most(file: IO[bytes], most_bytes: int) -> bytes:
    """Up to one byte more than `most_bytes`; that many show that there are more."""
    content = bytearray()
    while len(content) <= most_bytes and (chunk := file.read(min(2**20, most_bytes + 1 - len(content)))):
        content += chunk
    return bytes(content)
