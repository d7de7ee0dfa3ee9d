"""The one generation loop: prefill, then decode steps, over any runtime. It knows tokens, not text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from codegen_edge.errors import InvalidInputError
from codegen_edge.generation.batch import RunningBatch
from codegen_edge.generation.cancel import CancelToken
from codegen_edge.generation.params import GenerationParams
from codegen_edge.generation.prefill import OnPrefill
from codegen_edge.generation.request import Request
from codegen_edge.generation.row import TokenEvent
from codegen_edge.generation.speculation import Speculator
from codegen_edge.runtimes.runtime import KVCache, Runtime


class GenerationLoop:
    """Generates for a request; iterate it once to run it.

    Every prompt has `params.n` rows: row `i * n + s` is sample s of prompt i. Rows that finish leave the computation.
    While a row's event is being handled, `finish` ends the row early.

    Args:
        runtime: computes the logits.
        prompts: token ids of each prompt, none empty; or a Request, which is checked already.
        params: how to choose and when to stop (what concerns text is not handled here); of a Request its own.
        num_allowed_ids: ids from here on are never chosen; None allows the whole vocabulary.
        cancel: stops the loop with CancelledError, also within a step.
        speculator: drafts tokens while one row is alone.
        cache: of one row, that holds the beginning of the only prompt already.
        on_prefill: called with the tokens that are read, and those to read.

    Attributes:
        request: the prompts, cut where that was asked for, and the parameters.

    Raises:
        InvalidInputError: no prompts, an empty one, or an id outside the vocabulary; beam search.
        ContextLengthError: a prompt leaves no room for a new token.
    """

    def __init__(
        self,
        runtime: Runtime,
        prompts: Sequence[Sequence[int]] | Request,
        params: GenerationParams | None = None,
        *,
        num_allowed_ids: int | None = None,
        cancel: CancelToken | None = None,
        speculator: Speculator | None = None,
        cache: KVCache | None = None,
        on_prefill: OnPrefill | None = None,
    ) -> None:
        config = runtime.config
        if not isinstance(prompts, Request):
            prompts = Request.of(prompts, params or GenerationParams(), config, num_allowed_ids)
        self.request = prompts
        if self.request.params.num_beams > 1:
            raise InvalidInputError("beam search has a function of its own: codegen_edge.generation.beams")
        # The last token of a row is never fed back, so it needs no place in the cache.
        longest = max(self.request.prompt_lengths) + self.request.params.max_new_tokens - 1
        self._batch = RunningBatch(
            runtime,
            num_allowed_ids=self.request.num_allowed_ids,
            capacity=min(longest, config.context_length),
            cancel=cancel,
            speculator=speculator,
        )
        self._cache, self._on_prefill = cache, on_prefill

    def finish(self, row: int) -> None:
        """End a row; it gets no further tokens."""
        self._batch.finish(row)

    def __iter__(self) -> Iterator[TokenEvent]:
        """Run: yield a TokenEvent for every token of every row, step by step."""
        prefill = self._batch.begin(self.request, cache=self._cache, on_prefill=self._on_prefill)
        self._batch.advance(prefill)
        while self._batch.rows:
            yield from self._batch.step()
