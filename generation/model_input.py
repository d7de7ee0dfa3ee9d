"""What a user gives a model, before it is a request: prompts as texts or as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from codegen_edge.errors import InvalidInputError

Prompts = str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]]
"""A text or its token ids, or several texts, or several of the latter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Prompts of one kind.

    Attributes:
        texts: as they were given; empty where ids were.
        token_ids: of each prompt; None where texts were given.
    """

    texts: Sequence[str] = ()
    token_ids: Sequence[Sequence[int]] | None = None


def is_single(prompt: Prompts) -> bool:
    """Whether it is one prompt: a text, or token ids."""
    return isinstance(prompt, str) or _are_ids(prompt)


def as_batch(prompt: Prompts) -> Batch:
    """The prompts; what the ids are is checked with the request.

    Raises:
        InvalidInputError: neither texts nor token ids, or some of both.
    """
    if isinstance(prompt, str):
        return Batch(texts=[prompt])
    listed: Any = prompt  # what it holds is not known before it was looked at
    if _are_ids(listed):
        return Batch(token_ids=[listed])
    if isinstance(listed, list | tuple):
        if all(isinstance(each, str) for each in listed):
            return Batch(texts=listed)
        if not any(isinstance(each, str | bytes | bytearray) for each in listed):
            return Batch(token_ids=listed)
    raise InvalidInputError(
        f"a prompt must be a text or a list of token ids, or a list of such prompts of one kind, got {_kind(prompt)}"
    )


def _are_ids(prompt: object) -> bool:
    """Whether it is a listing whose first entry is a number; the others are checked with the request."""
    if isinstance(prompt, np.ndarray):
        return prompt.ndim == 1 and prompt.dtype.kind in "iu"
    return isinstance(prompt, list | tuple) and bool(prompt) and isinstance(prompt[0], int | float | np.number)


def _kind(prompt: object) -> str:
    if isinstance(prompt, list | tuple) and prompt:
        return f"a {type(prompt).__name__} of {', '.join(sorted({type(each).__name__ for each in prompt}))}"
    return type(prompt).__name__
