"""Reading prompts: checked, cut where asked, in chunks that can be cancelled between."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from codegen_edge.bundle.model_config import ModelConfig
from codegen_edge.errors import CancelledError, ContextLengthError, InvalidInputError
from codegen_edge.generation.cancel import CancelToken
from codegen_edge.generation.params import GenerationParams, allowed_ids, check_ids
from codegen_edge.runtimes.runtime import KVCache, Logits, Runtime, TokenIds

OnPrefill = Callable[[int, int], None]
"""Called with the tokens that are read, and those to read."""


class DeadlinePassedError(Exception):
    """The time for a prompt was over before it was read; never leaves the loop."""


def fitting_prompt(prompt: Sequence[int], params: GenerationParams, context_length: int) -> list[int]:
    """The prompt, or what `prompt_overflow` leaves of it.

    Raises:
        ContextLengthError: it leaves no room for a new token.
    """
    room = context_length - params.max_new_tokens
    if params.prompt_overflow == "cut-left" and len(prompt) > room:
        if room < 1:
            raise ContextLengthError(
                f"max_new_tokens {params.max_new_tokens} leaves nothing of the context of {context_length} tokens for "
                "a prompt to be cut to; lower it"
            )
        return list(prompt[-room:])
    if len(prompt) >= context_length:
        raise ContextLengthError(
            f"the prompt has {len(prompt)} tokens; the model's context of {context_length} tokens must also "
            'hold what is generated. Shorten it, or cut it with prompt_overflow="cut-left"'
        )
    return list(prompt)


def check_request(
    prompts: Sequence[Sequence[int]], params: GenerationParams, config: ModelConfig, num_allowed_ids: int | None
) -> list[list[int]]:
    """Check all that can be checked before a model computes.

    Returns:
        The prompts, cut where `prompt_overflow` says so.

    Raises:
        InvalidInputError: no prompt, an empty one, an id outside the vocabulary.
        ContextLengthError: a prompt leaves no room for a new token.
    """
    check_prompts(prompts, config.vocab_size)
    check_ids(params, allowed_ids(num_allowed_ids, config.vocab_size))
    return [fitting_prompt(prompt, params, config.context_length) for prompt in prompts]


def check_prompts(prompts: Sequence[Sequence[int]], vocab_size: int) -> None:
    """Raise InvalidInputError for no prompt, an empty one, or an id outside the vocabulary."""
    if not prompts:
        raise InvalidInputError("no prompt was given")
    for number, prompt in enumerate(prompts):
        which = f"prompt {number}" if len(prompts) > 1 else "the prompt"
        if len(prompt) == 0:
            raise InvalidInputError(f"{which} is empty; give at least one token")
        if not all(isinstance(token_id, int | np.integer) for token_id in prompt):
            raise InvalidInputError(f"{which} holds something that is no token id")
        wrong = next((token_id for token_id in prompt if not 0 <= token_id < vocab_size), None)
        if wrong is not None:
            raise InvalidInputError(f"{which} has token id {wrong}, outside the vocabulary of {vocab_size}")


def step_unless_cancelled(
    runtime: Runtime, token_ids: TokenIds, cache: KVCache, cancel: CancelToken | None, *, all_logits: bool = False
) -> Logits:
    """`runtime.step`; raise CancelledError where that was asked for, before the step or within it."""
    if cancel is not None and cancel.is_cancelled:
        raise CancelledError("the generation was cancelled")
    return runtime.step(token_ids, cache, all_logits=all_logits)


def prefill(
    runtime: Runtime,
    cache: KVCache,
    rows: Sequence[Sequence[int]],
    *,
    chunk: int,
    cancel: CancelToken | None = None,
    deadline: float | None = None,
    on_prefill: OnPrefill | None = None,
) -> Logits:
    """Append `rows`, all of one length, to `cache`; return the logits [B, V] after them.

    Raises:
        CancelledError: between two chunks or within one.
        DeadlinePassedError: `deadline` (of time.monotonic) passed between two chunks.
    """
    token_ids = np.array(rows, np.int64)
    total = token_ids.shape[1]
    logits: Logits | None = None
    for start in range(0, total, chunk):
        if logits is not None and deadline is not None and time.monotonic() >= deadline:
            raise DeadlinePassedError
        logits = step_unless_cancelled(runtime, token_ids[:, start : start + chunk], cache, cancel)
        if on_prefill is not None:
            on_prefill(min(start + chunk, total), total)
    assert logits is not None
    return logits
