"""The prompt of `generate`: a text, a file, or token ids."""

from __future__ import annotations

import re
from pathlib import Path

from codegen_edge.cli.texts import read_prompt
from codegen_edge.errors import InvalidInputError

_IDS = re.compile(r"\[?\s*\d+(?:[\s,]+\d+)*\s*\]?", re.ASCII)
_LONGEST_IDS = 2**20  # characters: more than any context holds
_MOST_DIGITS = 10


def given_prompt(prompt: str | None, prompt_file: Path | None, prompt_ids: str | None) -> str | list[int]:
    """The one prompt that was given.

    Raises:
        InvalidInputError: none was given, or several; it is empty, cannot be read, or holds something that is no id.
    """
    if sum(each is not None for each in (prompt, prompt_file, prompt_ids)) != 1:
        raise InvalidInputError("give either --prompt TEXT, --prompt-file FILE (- for stdin) or --prompt-ids IDS")
    if prompt_ids is not None:
        return _parsed(prompt_ids)
    text = read_prompt(prompt_file) if prompt_file is not None else prompt
    if not text:
        raise InvalidInputError("the prompt is empty; give at least one character")
    return text


def _parsed(text: str) -> list[int]:
    if len(text) > _LONGEST_IDS or _IDS.fullmatch(text.strip()) is None:
        raise InvalidInputError(f"--prompt-ids must be token ids such as 318,257,1332, got {text[:40]!r}")
    digits = re.findall(r"\d+", text)
    if max(map(len, digits)) > _MOST_DIGITS:
        raise InvalidInputError(f"--prompt-ids holds an id of {max(map(len, digits))} digits; no vocabulary has it")
    return [int(each) for each in digits]
