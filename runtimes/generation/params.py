"""What a caller may ask of a generation."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

from codegen_edge.errors import InvalidInputError

FinishReason = Literal["stop", "end_of_text", "length", "context"]
"""Why a row ended: a stop string, the end-of-text id, `max_new_tokens`, or a full context."""

_MAX_SEED = 2**64 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationParams:
    """How to choose tokens and when to stop.

    Attributes:
        max_new_tokens: the most tokens to add to each prompt.
        temperature: 0 chooses the likeliest token (greedy); above 0 the logits are divided by it and sampled.
        top_k: sample from the k likeliest tokens; 0 keeps all.
        top_p: sample from the smallest set of likeliest tokens whose probability reaches p; 1 keeps all.
        seed: makes sampling repeatable; None draws a fresh one. A row's tokens do not depend on its batch.
        stop: texts at which a row ends; the text is cut before the first of them.

    Raises:
        InvalidInputError: from the constructor, naming the parameter that is out of range.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require_int("max_new_tokens", self.max_new_tokens, lowest=1)
        _require_int("top_k", self.top_k, lowest=0)
        if self.seed is not None:
            _require_int("seed", self.seed, lowest=0)
            if self.seed > _MAX_SEED:
                raise InvalidInputError(f"seed must be at most {_MAX_SEED}, got {self.seed}")
        _require_number("temperature", self.temperature)
        _require_number("top_p", self.top_p)
        if self.temperature < 0:
            raise InvalidInputError(f"temperature must be 0 (greedy) or more, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise InvalidInputError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if self.temperature == 0 and (self.top_k > 0 or self.top_p < 1):
            raise InvalidInputError("top_k and top_p choose among samples; give a temperature above 0 with them")
        if not isinstance(self.stop, list | tuple) or not all(isinstance(text, str) and text for text in self.stop):
            raise InvalidInputError("stop must be a sequence of non-empty strings")
        object.__setattr__(self, "stop", tuple(self.stop))


def _require_int(name: str, value: object, *, lowest: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
        raise InvalidInputError(f"{name} must be an integer of at least {lowest}, got {value!r}")


def _require_number(name: str, value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= sys.float_info.max:
        raise InvalidInputError(f"{name} must be a finite number, got {value!r}")
