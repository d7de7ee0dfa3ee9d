"""A request at the door of the generation: prompts checked and cut once, before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from codegen_edge.bundle.model_config import ModelConfig
from codegen_edge.errors import ContextLengthError, InvalidInputError
from codegen_edge.generation.params import GenerationParams, check_ids

_MOST_PROMPTS = 1024  # of one call: each has a KV cache


@dataclass(frozen=True, slots=True)
class Request:
    """Prompts that fit the model, and how to go on from them.

    Attributes:
        prompts: token ids of each, cut where `prompt_overflow` said so.
        params: for all of them.
        num_allowed_ids: ids from here on are never chosen.
    """

    prompts: tuple[tuple[int, ...], ...]
    params: GenerationParams
    num_allowed_ids: int

    @classmethod
    def of(
        cls,
        prompts: Sequence[Sequence[int]],
        params: GenerationParams,
        config: ModelConfig,
        num_allowed_ids: int | None = None,
    ) -> Request:
        """Check all that can be checked before a model computes.

        Args:
            prompts: token ids; none empty.
            params: for all of them.
            config: the model's shape.
            num_allowed_ids: ids from here on are never chosen; None allows the whole vocabulary.

        Raises:
            InvalidInputError: no prompt, too many, an empty one, an id outside the vocabulary, something that is no id.
            ContextLengthError: a prompt leaves no room for a new token.
        """
        allowed = count_allowed(num_allowed_ids, config.vocab_size)
        _check_prompts(prompts, config.vocab_size)
        check_ids(params, allowed)
        fitted = tuple(_fitted(prompt, params, config.context_length) for prompt in prompts)
        return cls(fitted, params, allowed)

    def split(self) -> list[Request]:
        """One request for each prompt."""
        return [replace(self, prompts=(prompt,)) for prompt in self.prompts]

    @property
    def num_rows(self) -> int:
        """`params.n` for each prompt."""
        return len(self.prompts) * self.params.n

    @property
    def prompt_lengths(self) -> list[int]:
        """Tokens of each prompt."""
        return [len(prompt) for prompt in self.prompts]


def count_allowed(given: int | None, vocab_size: int) -> int:
    """How many of the first ids may be chosen; None allows the whole vocabulary."""
    if given is None:
        return vocab_size
    if given < 1:
        raise InvalidInputError(f"num_allowed_ids must be at least 1, got {given}")
    return min(given, vocab_size)


def _fitted(prompt: Sequence[int], params: GenerationParams, context_length: int) -> tuple[int, ...]:
    room = context_length - params.max_new_tokens
    if params.prompt_overflow == "cut-left" and len(prompt) > room:
        if room < 1:
            raise ContextLengthError(
                f"max_new_tokens {params.max_new_tokens} leaves nothing of the context of {context_length} tokens for "
                "a prompt to be cut to; lower it"
            )
        return tuple(prompt[-room:])
    if len(prompt) >= context_length:
        raise ContextLengthError(
            f"the prompt has {len(prompt)} tokens; the model's context of {context_length} tokens must also "
            'hold what is generated. Shorten it, or cut it with prompt_overflow="cut-left"'
        )
    return tuple(prompt)


def check_number_of_prompts(number: int) -> None:
    """Raise InvalidInputError for no prompt, and for more than one call takes."""
    if not number:
        raise InvalidInputError("no prompt was given")
    if number > _MOST_PROMPTS:
        raise InvalidInputError(
            f"{number:,} prompts were given; one call takes at most {_MOST_PROMPTS:,}, as each has a KV cache. "
            "Give them in several calls"
        )


def _check_prompts(prompts: Sequence[Sequence[int]], vocab_size: int) -> None:
    if not _is_listing(prompts):
        raise InvalidInputError(f"prompts must be a list of lists of token ids, got {type(prompts).__name__}")
    check_number_of_prompts(len(prompts))
    for number, prompt in enumerate(prompts):
        which = f"prompt {number}" if len(prompts) > 1 else "the prompt"
        if not _is_listing(prompt) and not (isinstance(prompt, np.ndarray) and prompt.ndim == 1):
            raise InvalidInputError(f"{which} must be a list of token ids, got {type(prompt).__name__}")
        if len(prompt) == 0:
            raise InvalidInputError(f"{which} is empty; give at least one token")
        # True is an integer to Python, and would be read as id 1.
        other = next(
            (kind for kind in map(type, prompt) if kind is bool or not issubclass(kind, int | np.integer)), None
        )
        if other is not None:
            raise InvalidInputError(f"{which} holds something that is no token id: {other.__name__}")
        wrong = next((token_id for token_id in prompt if not 0 <= token_id < vocab_size), None)
        if wrong is not None:
            raise InvalidInputError(f"{which} has token id {wrong}, outside the vocabulary of {vocab_size}")


def _is_listing(value: object) -> bool:
    """Whether it is a sequence, but no text and no bytes: these are sequences, too, and hold no token ids."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | memoryview)
