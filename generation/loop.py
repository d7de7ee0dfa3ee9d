"""The one generation loop: prefill, then decode steps, over any runtime. It knows tokens, not text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from codegen_edge.errors import InvalidInputError
from codegen_edge.generation.batch import RunningBatch, TokenEvent
from codegen_edge.generation.cancel import CancelToken
from codegen_edge.generation.params import GenerationParams
from codegen_edge.generation.prefill import OnPrefill, check_request
from codegen_edge.generation.speculation import Speculator
from codegen_edge.runtimes.runtime import KVCache, Runtime


class GenerationLoop:
    """Generates for a batch of ragged prompts; iterate it once to run it.

    Every prompt has `params.n` rows: row `i * n + s` is sample s of prompt i. Rows that finish leave the computation.
    While a row's event is being handled, `finish` ends the row early.

    Args:
        runtime: computes the logits.
        prompts: token ids of each prompt; none may be empty.
        params: how to choose and when to stop (what concerns text is not handled here).
        num_allowed_ids: ids from here on are never chosen; None allows the whole vocabulary.
        cancel: stops the loop with CancelledError, also within a step.
        speculator: drafts tokens while one row is alone.
        cache: of one row, that holds the beginning of the only prompt already.
        on_prefill: told of the tokens that are read, and those to read.

    Attributes:
        prompt_lengths: tokens of each prompt, cut where that was asked for.

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
        speculator: Speculator | None = None,
        cache: KVCache | None = None,
        on_prefill: OnPrefill | None = None,
    ) -> None:
        if params.num_beams > 1:
            raise InvalidInputError("beam search has a function of its own: codegen_edge.generation.beams")
        context_length = runtime.config.context_length
        fitted = check_request(prompts, params, runtime.config, num_allowed_ids)
        # The last token of a row is never fed back, so it needs no place in the cache.
        capacity = min(max(map(len, fitted)) + params.max_new_tokens - 1, context_length)
        self.prompt_lengths = [len(prompt) for prompt in fitted]
        self._prompts, self._params, self._cache, self._on_prefill = fitted, params, cache, on_prefill
        self._batch = RunningBatch(
            runtime, num_allowed_ids=num_allowed_ids, capacity=capacity, cancel=cancel, speculator=speculator
        )

    def finish(self, row: int) -> None:
        """End a row; it gets no further tokens."""
        self._batch.finish(row)

    def __iter__(self) -> Iterator[TokenEvent]:
        """Run: yield a TokenEvent for every token of every row, step by step."""
        self._batch.add(self._prompts, self._params, cache=self._cache, on_prefill=self._on_prefill)
        while self._batch.rows:
            yield from self._batch.step()
