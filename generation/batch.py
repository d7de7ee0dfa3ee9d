"""Rows that decode together: they join a running batch, leave it when they end, and never change one another."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from codegen_edge.errors import ContextLengthError, InvalidInputError, NumericsError
from codegen_edge.generation.cancel import CancelToken
from codegen_edge.generation.params import GenerationParams
from codegen_edge.generation.prefill import OnPrefill, Pace, Prefill, PromptGroup, step_unless_cancelled
from codegen_edge.generation.request import Request, count_allowed
from codegen_edge.generation.row import Row, TokenEvent, ended_event
from codegen_edge.generation.sampling import TokenChooser
from codegen_edge.generation.speculation import Speculator, StepDrafts
from codegen_edge.runtimes.runtime import KVCache, Runtime

OnRowError = Callable[[int, Exception], None]
"""Called with a row's number and why it failed."""

OnRead = Callable[[int, KVCache, int], None]
"""Called when a prompt was read: the number of its first row, and where its keys and values are: a cache and a row."""


class RunningBatch:
    """Rows that decode together on one runtime.

    `add` reads prompts and lets their rows join; `step` gives every row its next token. Between two steps rows may
    join and be finished. A server that must not let its rows wait for a long prompt reads it bit by bit instead:
    `begin`, then `advance` with a time budget between two steps, until the prefill is done.

    Args:
        runtime: computes the logits.
        num_allowed_ids: ids from here on are never chosen; None allows the whole vocabulary.
        capacity: most tokens of a row; None takes the model's context.
        slots: rows that the batch has memory for from its first row on; joining then costs one row's copy, leaving at
            most another's, and nothing grows. None lets it grow with its rows.
        cancel: stops a step or a prefill with CancelledError, for all rows.
        speculator: drafts tokens while one row is alone; changes no token, only the time. None drafts where the
            runtime's steps have room for tokens that cost nothing. With one whose drafts are free (or None) several
            rows get drafts, too, where the runtime runs rows of any lengths together.
        on_row_error: called with the number of a row that failed and why, instead of raising it from `step`.
        on_read: called with each prompt that was read, before its rows decode.

    Raises:
        InvalidInputError: a number that is not above 0.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        num_allowed_ids: int | None = None,
        capacity: int | None = None,
        slots: int | None = None,
        cancel: CancelToken | None = None,
        speculator: Speculator | None = None,
        on_row_error: OnRowError | None = None,
        on_read: OnRead | None = None,
    ) -> None:
        self._runtime = runtime
        for name, value in (("capacity", capacity), ("slots", slots)):
            if value is not None and value < 1:
                raise InvalidInputError(f"{name} must be at least 1, got {value}")
        self._num_allowed_ids = count_allowed(num_allowed_ids, runtime.config.vocab_size)
        self._capacity = min(capacity or runtime.config.context_length, runtime.config.context_length)
        self._slots = slots
        self._cancels = [cancel] if cancel is not None else []
        self._drafts = StepDrafts(runtime, speculator)
        self._on_row_error = on_row_error
        self._on_read = on_read
        self._cache: KVCache | None = None
        self._rows: list[Row] = []
        self._ended: list[TokenEvent] = []  # of rows that ended before they joined
        self._num_added = 0
        self._num_pending = 0  # rows whose prompts are being read
        self._pace = Pace()

    @property
    def rows(self) -> list[int]:
        """Numbers of the rows that go on; those whose prompts are being read are none of them yet."""
        going = [row.number for row in self._rows if not row.is_finished]
        return going + [event.row for event in self._ended]

    @property
    def free_slots(self) -> int | None:
        """Rows that may be added now; None where the batch grows."""
        if self._slots is None:
            return None
        return self._slots - self._num_pending - sum(not row.is_finished for row in self._rows)

    def add(
        self,
        prompts: Sequence[Sequence[int]],
        params: GenerationParams,
        *,
        cancel: CancelToken | None = None,
        on_prefill: OnPrefill | None = None,
    ) -> list[int]:
        """Read prompts and let their rows join; every prompt gets `params.n` rows, which share its prefill.

        Args:
            prompts: token ids, none empty.
            params: for all of them.
            cancel: ends these rows alone, with finish reason "cancelled".
            on_prefill: called with the tokens that are read, and those to read, over all prompts.

        Returns:
            The numbers of the rows: those of the first prompt, then of the second, …

        Raises:
            InvalidInputError: no prompt, an empty one, an id outside the vocabulary, no free slot.
            ContextLengthError: a prompt does not fit.
            CancelledError: the batch was cancelled; it is as before.
        """
        request = Request.of(prompts, params, self._runtime.config, self._num_allowed_ids)
        prefill = self.begin(request, cancel=cancel, on_prefill=on_prefill)
        self.advance(prefill)
        return prefill.rows

    def begin(
        self,
        request: Request,
        *,
        cache: KVCache | None = None,
        first_sample: int = 0,
        cancel: CancelToken | None = None,
        on_prefill: OnPrefill | None = None,
    ) -> Prefill:
        """Take a request; nothing is computed before it is advanced.

        Args:
            request: its rows join when all of its prompts are read.
            cache: of one row, that holds the beginning of the only prompt already; it becomes the batch's own.
            first_sample: which of the samples of a prompt the first row is; each has random numbers of its own.
            cancel: ends these rows alone, with finish reason "cancelled".
            on_prefill: called with the tokens that are read, and those to read.

        Raises:
            InvalidInputError: no free slot.
            ContextLengthError: a prompt is longer than a row of this batch may be.
        """
        longest = max(request.prompt_lengths)
        if longest > self._capacity:
            raise ContextLengthError(f"a prompt has {longest} tokens, a row of this batch holds {self._capacity}")
        if self.free_slots is not None and request.num_rows > self.free_slots:
            raise InvalidInputError(
                f"{request.num_rows} rows were given, {self.free_slots} of the batch's {self._slots} slots are free"
            )
        prefill = Prefill(
            request, self._num_added, cache=cache, first_sample=first_sample, cancel=cancel, on_prefill=on_prefill
        )
        self._num_added += request.num_rows
        self._num_pending += request.num_rows
        return prefill

    def advance(self, prefill: Prefill, *, seconds: float | None = None) -> bool:
        """Read on at a request's prompts; when all are read, its rows join.

        Args:
            prefill: from `begin`, not done.
            seconds: about how long to read, one small chunk at least; None reads to the end.

        Returns:
            Whether the prompts are read.

        Raises:
            CancelledError: the batch was cancelled; it is as before, and the request is gone.
        """
        cancel = self._cancels[0] if self._cancels else None
        try:
            prefill.advance(self._runtime, self._capacity, self._pace, seconds=seconds, cancel=cancel)
        except BaseException:
            self._num_pending -= prefill.request.num_rows
            raise
        if not prefill.is_done:
            return False
        self._num_pending -= prefill.request.num_rows
        for number, reason in prefill.ended.items():
            first = prefill.first_row + number * prefill.request.params.n
            self._ended += [
                ended_event(first + sample, 0, reason, prefill.started_at) for sample in range(prefill.request.params.n)
            ]
        self._join([(group, self._new_rows(prefill, group)) for group in prefill.groups if group.is_read])
        return True

    def finish(self, number: int) -> None:
        """End a row; it gets no further tokens."""
        for row in self._rows:
            if row.number == number:
                row.is_finished = True

    def step(self) -> Iterator[TokenEvent]:
        """Give every row its next token, or several where a draft was right; iterate it to its end.

        Raises:
            NumericsError, InvalidInputError: a row's logits are not finite, or its rules or hooks failed. The row is
                named and ended, the others go on with the next step.
            CancelledError, BackendError: the batch is not to be used further.
        """
        ended, self._ended = self._ended, []
        yield from ended
        for row in self._rows:
            if not row.is_finished and row.cancel is not None and row.cancel.is_cancelled:
                yield row.cancelled()
        self._drop_finished()
        # Rows that just joined have their logits: they catch up while the others wait.
        if not any(len(row.logits) for row in self._rows):
            self._feed()
        for row in self._rows:
            if len(row.logits) and not row.is_finished:
                try:
                    yield from self._tokens_of(row)
                except (NumericsError, InvalidInputError) as exc:
                    row.is_finished = True  # the others go on
                    if self._on_row_error is not None:
                        self._on_row_error(row.number, exc)
                        continue
                    if self._num_added == 1:
                        raise
                    raise type(exc)(f"row {row.number}: {exc}") from exc
        self._drop_finished()

    def _new_rows(self, prefill: Prefill, group: PromptGroup) -> list[Row]:
        request, params = prefill.request, prefill.request.params
        assert group.logits is not None
        assert group.cache is not None
        if self._on_read is not None:
            for place, number in enumerate(group.numbers):
                self._on_read(prefill.first_row + number * params.n, group.cache, place)
        if params.n > 1:
            group.cache.select([place for place in range(len(group.numbers)) for _ in range(params.n)])
        return [
            self._row(
                request,
                number,
                prefill.first_row + number * params.n + sample,
                sample=prefill.first_sample + sample,
                started_at=prefill.started_at,
                logits=logits[None],
                cancel=prefill.cancel,
            )
            for number, logits in zip(group.numbers, group.logits, strict=True)
            for sample in range(params.n)
        ]

    def _row(
        self,
        request: Request,
        prompt_number: int,
        number: int,
        *,
        sample: int,
        started_at: float,
        logits: NDArray[np.float32],
        cancel: CancelToken | None,
    ) -> Row:
        """A row of a prompt, with logits [1, V] that its first token is chosen from, or none yet, [0, V]."""
        prompt, params = list(request.prompts[prompt_number]), request.params
        end_ids = (self._runtime.config.eos_token_id, *params.stop_ids)
        chooser = TokenChooser(
            params, request.num_allowed_ids, prompt_length=len(prompt), end_ids=end_ids, sample=sample
        )
        return Row(number, params, len(prompt), prompt, chooser, started_at, logits, cancel=cancel)

    def _join(self, joining: Sequence[tuple[PromptGroup, list[Row]]]) -> None:
        """Append rows that were read; the first ones of an empty batch bring their cache along."""
        self._drop_finished()
        num_rows = self._slots or len(self._rows) + sum(len(rows) for _, rows in joining)
        for group, rows in joining:
            assert group.cache is not None
            if self._cache is None or (self._slots is None and not self._rows):
                self._cache, self._rows = group.cache, rows
                if num_rows > len(rows):
                    self._cache.reserve(num_rows)
            else:
                self._cache.join(group.cache)
                self._rows += rows

    def _feed(self) -> None:
        """Compute the logits after what was chosen last."""
        if not self._rows:
            return
        assert self._cache is not None
        self._drafts.draft(self._rows, self._cache.capacity, self._cancels)
        counts = np.array([1 + len(row.draft) for row in self._rows], np.int64)
        token_ids = np.zeros((len(counts), int(counts.max())), np.int64)
        for place, row in enumerate(self._rows):
            token_ids[place, : counts[place]] = (row.ids[-1], *row.draft)
        started_at = time.perf_counter()
        is_drafted = token_ids.shape[1] > 1
        logits = step_unless_cancelled(
            self._runtime, token_ids, self._cache, self._cancels, all_logits=is_drafted, counts=counts
        )
        self._drafts.record_step(self._rows, time.perf_counter() - started_at)
        for place, row in enumerate(self._rows):
            row.logits = logits[place, : counts[place]] if is_drafted else logits[place : place + 1]

    def _tokens_of(self, row: Row) -> Iterator[TokenEvent]:
        """Choose after every fed token, until a choice is not the one that was drafted."""
        logits, draft = row.logits, row.draft
        row.logits, row.draft = logits[:0], []
        accepted = 0
        for place, row_logits in enumerate(logits):
            event = row.choose(row_logits, self._runtime.config, self._capacity)
            is_drafted = place < len(draft) and event.token_id == draft[place]
            accepted += is_drafted
            if place + 1 == len(logits) or not is_drafted or row.is_finished:
                self._forget_rest(row, len(draft), accepted)
                yield event
                return
            yield event
            if row.is_finished:  # by the caller
                self._forget_rest(row, len(draft), accepted)
                return

    def _forget_rest(self, row: Row, num_drafted: int, accepted: int) -> None:
        if not num_drafted:
            return
        assert self._cache is not None
        self._cache.rewind(self._rows.index(row), len(row.ids) - 1)
        self._drafts.record_outcome(row, len(self._rows), num_drafted, accepted)

    def _drop_finished(self) -> None:
        going = [place for place, row in enumerate(self._rows) if not row.is_finished]
        if len(going) == len(self._rows):
            return
        # The last rows fill the gaps: what leaves costs the move of one row, not of all behind it.
        gaps = {place for place, row in enumerate(self._rows[: len(going)]) if row.is_finished}
        fillers = iter([place for place in going if place >= len(going)])
        kept = [next(fillers) if place in gaps else place for place in range(len(going))]
        if self._cache is not None and (going or self._slots is not None):
            self._cache.select(kept)
        self._rows = [self._rows[place] for place in kept]
