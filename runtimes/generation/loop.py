"""The one generation loop: prefill, then decode steps, over any runtime. It knows tokens, not text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codegen_edge.errors import CancelledError, ContextLengthError, InvalidInputError
from codegen_edge.runtimes.generation.cancel import CancelToken
from codegen_edge.runtimes.generation.params import FinishReason, GenerationParams
from codegen_edge.runtimes.generation.sampling import TokenChooser
from codegen_edge.runtimes.runtime import KVCache, Logits, Runtime, TokenIds


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEvent:
    """One token of one row.

    Attributes:
        row: index of the prompt.
        token_id: the token that was chosen.
        step: 0 for the token that prefill gives, then 1, 2, …
        finish_reason: set on a row's last token, unless the caller ended the row with `finish`.
    """

    row: int
    token_id: int
    step: int
    finish_reason: FinishReason | None


class GenerationLoop:
    """Generates for a batch of ragged prompts; iterate it once to run it.

    Rows that finish leave the computation. While a row's event is being handled, `finish` ends the row early.

    Args:
        runtime: computes the logits.
        prompts: token ids of each row; none may be empty.
        params: how to choose and when to stop (`stop` is text and therefore not handled here).
        num_allowed_ids: ids from here on are never chosen; None allows the whole vocabulary.
        cancel: stops the loop with CancelledError, also within a step.

    Raises:
        InvalidInputError: no prompts, an empty one, or an id outside the vocabulary.
        ContextLengthError: a prompt leaves no room for a new token.
    """

    def __init__(
        self,
        runtime: Runtime,
        prompts: Sequence[Sequence[int]],
        params: GenerationParams,
        *,
        num_allowed_ids: int | None = None,
        cancel: CancelToken | None = None,
    ) -> None:
        vocab_size = runtime.config.vocab_size
        _check_prompts(prompts, vocab_size, runtime.config.context_length)
        self._runtime = runtime
        self._prompts = prompts
        self._params = params
        self._cancel = cancel
        self._choosers = [TokenChooser(params, min(num_allowed_ids or vocab_size, vocab_size)) for _ in prompts]
        self._finished: set[int] = set()

    def finish(self, row: int) -> None:
        """End a row; it gets no further tokens."""
        self._finished.add(row)

    def __iter__(self) -> Iterator[TokenEvent]:
        """Run: yield a TokenEvent for every token of every row, step by step."""
        longest = max(map(len, self._prompts))
        # The last token of a row is never fed back, so it needs no place in the cache.
        capacity = min(longest + self._params.max_new_tokens - 1, self._runtime.config.context_length)
        cache = self._runtime.new_cache(len(self._prompts), capacity)
        rows = list(range(len(self._prompts)))
        with self._cancel.calling(cache.interrupt) if self._cancel else nullcontext():
            counts = np.array([len(prompt) for prompt in self._prompts], np.int64)
            token_ids = np.zeros((len(rows), longest), np.int64)
            for row, prompt in enumerate(self._prompts):
                token_ids[row, : len(prompt)] = prompt
            logits = self._step_unless_cancelled(token_ids, cache, counts)
            for step in range(self._params.max_new_tokens):
                chosen = []
                for row, row_logits in zip(rows, logits, strict=True):
                    event = self._choose(row, row_logits, step)
                    yield event
                    if event.finish_reason is not None:
                        self._finished.add(row)
                    chosen.append(event.token_id)
                going = [index for index, row in enumerate(rows) if row not in self._finished]
                if not going:
                    return
                if len(going) < len(rows):
                    cache.keep(going)
                    rows = [rows[index] for index in going]
                token_ids = np.array([[chosen[index]] for index in going], np.int64)
                logits = self._step_unless_cancelled(token_ids, cache, None)

    def _step_unless_cancelled(self, token_ids: TokenIds, cache: KVCache, counts: NDArray[np.int64] | None) -> Logits:
        if self._cancel is not None and self._cancel.is_cancelled:
            raise CancelledError("the generation was cancelled")
        return self._runtime.step(token_ids, cache, counts=counts)

    def _choose(self, row: int, logits: Logits, step: int) -> TokenEvent:
        token_id = self._choosers[row].choose(logits, step)
        reason: FinishReason | None = None
        if token_id == self._runtime.config.eos_token_id:
            reason = "end_of_text"
        elif step + 1 == self._params.max_new_tokens:
            reason = "length"
        elif len(self._prompts[row]) + step + 1 >= self._runtime.config.context_length:
            reason = "context"
        return TokenEvent(row=row, token_id=token_id, step=step, finish_reason=reason)


def _check_prompts(prompts: Sequence[Sequence[int]], vocab_size: int, context_length: int) -> None:
    if not prompts:
        raise InvalidInputError("no prompt was given")
    for number, prompt in enumerate(prompts):
        which = f"prompt {number}" if len(prompts) > 1 else "the prompt"
        if len(prompt) == 0:
            raise InvalidInputError(f"{which} is empty; give at least one token")
        if len(prompt) >= context_length:
            raise ContextLengthError(
                f"{which} has {len(prompt)} tokens; the model's context of {context_length} tokens must also "
                "hold what is generated. Shorten it"
            )
        wrong = next((token_id for token_id in prompt if not 0 <= token_id < vocab_size), None)
        if wrong is not None:
            raise InvalidInputError(f"{which} has token id {wrong}, outside the vocabulary of {vocab_size}")
