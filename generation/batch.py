"""Rows that decode together: they join a running batch, leave it when they end, and never change one another."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from codegen_edge.errors import ContextLengthError, InvalidInputError, NumericsError
from codegen_edge.generation.cancel import CancelToken
from codegen_edge.generation.params import FinishReason, GenerationParams, allowed_ids
from codegen_edge.generation.prefill import (
    DeadlinePassedError,
    OnPrefill,
    check_request,
    prefill,
    step_unless_cancelled,
)
from codegen_edge.generation.sampling import Chosen, TokenChooser
from codegen_edge.generation.speculation import Speculator
from codegen_edge.runtimes.runtime import KVCache, Logits, Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEvent:
    """One token of one row.

    Attributes:
        row: number of the row, as `add` gave it.
        token_id: the token that was chosen; None where the deadline passed before the first one.
        step: 0 for the token that prefill gives, then 1, 2, …
        finish_reason: set on a row's last token, unless the caller ended the row with `finish`.
        logprob: log probability of the token in the model's own distribution, where asked for.
        top_logprobs: the likeliest ids and their log probabilities, where asked for.
        seconds: since the row was added.
    """

    row: int
    token_id: int | None
    step: int
    finish_reason: FinishReason | None
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Progress:
    """Tells the progress of some rows of one length as that of all prompts."""

    on_prefill: OnPrefill
    done: int
    num_rows: int
    total: int

    def __call__(self, read: int, of: int) -> None:
        self.on_prefill(self.done + self.num_rows * read, self.total)


@dataclass(slots=True, eq=False)
class _Row:
    number: int
    params: GenerationParams
    prompt_length: int
    ids: list[int]  # prompt and new tokens; the cache holds all but the last new one
    chooser: TokenChooser
    started_at: float
    logits: NDArray[np.float32]  # [1 + drafted, V], of what was fed last
    draft: list[int] = field(default_factory=list)
    is_finished: bool = False

    @property
    def deadline(self) -> float | None:
        return None if self.params.max_seconds is None else self.started_at + self.params.max_seconds


class RunningBatch:
    """Rows that decode together on one runtime.

    `add` reads a prompt and lets its rows join; `step` gives every row its next token. Between two steps rows may
    join and be finished.

    Args:
        runtime: computes the logits.
        num_allowed_ids: ids from here on are never chosen; None allows the whole vocabulary.
        capacity: most tokens of a row; None takes the model's context.
        cancel: stops a step or a prefill with CancelledError.
        speculator: drafts tokens while one row is alone; changes no token, only the time.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        num_allowed_ids: int | None = None,
        capacity: int | None = None,
        cancel: CancelToken | None = None,
        speculator: Speculator | None = None,
    ) -> None:
        self._runtime = runtime
        if capacity is not None and capacity < 1:
            raise InvalidInputError(f"capacity must be at least 1, got {capacity}")
        self._num_allowed_ids = allowed_ids(num_allowed_ids, runtime.config.vocab_size)
        self._capacity = min(capacity or runtime.config.context_length, runtime.config.context_length)
        self._cancel = cancel
        self._speculator = speculator
        self._cache: KVCache | None = None
        self._rows: list[_Row] = []
        self._ended_unread: list[TokenEvent] = []
        self._num_added = 0

    @property
    def rows(self) -> list[int]:
        """Numbers of the rows that go on."""
        going = [row.number for row in self._rows if not row.is_finished]
        return going + [event.row for event in self._ended_unread]

    def add(
        self,
        prompts: Sequence[Sequence[int]],
        params: GenerationParams,
        *,
        cache: KVCache | None = None,
        on_prefill: OnPrefill | None = None,
    ) -> list[int]:
        """Read prompts and let their rows join; every prompt gets `params.n` rows, which share its prefill.

        Args:
            prompts: token ids, none empty.
            params: for all of them.
            cache: of one row, that holds the beginning of the only prompt already; it becomes the batch's own.
            on_prefill: told of the progress, over all prompts.

        Returns:
            The numbers of the rows: those of the first prompt, then of the second, …

        Raises:
            InvalidInputError: no prompt, an empty one, an id outside the vocabulary.
            ContextLengthError: a prompt does not fit.
            CancelledError: the batch is as before.
        """
        config = self._runtime.config
        fitted = check_request(prompts, params, config, self._num_allowed_ids)
        longest = max(map(len, fitted))
        if longest > self._capacity:
            raise ContextLengthError(f"a prompt has {longest} tokens, a row of this batch holds {self._capacity}")
        started_at = time.monotonic()
        first, self._num_added = self._num_added, self._num_added + len(fitted) * params.n
        # Prompts of one length are read together.
        by_length: dict[int, list[int]] = {}
        for number, prompt in enumerate(fitted):
            by_length.setdefault(len(prompt), []).append(number)
        held = 0 if cache is None else int(cache.lengths[0])
        total, done = sum(map(len, fitted)) - held, 0
        joining: list[tuple[KVCache, list[_Row]]] = []
        for length, numbers in by_length.items():
            group = cache if cache is not None else self._runtime.new_cache(len(numbers), self._capacity)
            unread = [fitted[number][held:] for number in numbers]
            told = None if on_prefill is None else _Progress(on_prefill, done, len(numbers), total)
            try:
                logits = self._read(unread, group, params, started_at, told)
            except DeadlinePassedError:
                self._end_unread([first + number * params.n for number in numbers], params, started_at)
                continue
            done += length * len(numbers)
            if params.n > 1:
                group.select([place for place in range(len(numbers)) for _ in range(params.n)])
            rows = [
                self._new_row(
                    first + number * params.n + sample, fitted[number], params, sample, started_at, row_logits
                )
                for number, row_logits in zip(numbers, logits, strict=True)
                for sample in range(params.n)
            ]
            joining.append((group, rows))
        self._join(joining)
        return list(range(first, self._num_added))

    def _read(
        self,
        rows: Sequence[Sequence[int]],
        cache: KVCache,
        params: GenerationParams,
        started_at: float,
        on_prefill: OnPrefill | None,
    ) -> Logits:
        """Prefill rows of one length; [B, V] logits."""
        with self._cancel.calling(cache.interrupt) if self._cancel else nullcontext():
            return prefill(
                self._runtime,
                cache,
                rows,
                chunk=params.prefill_chunk,
                cancel=self._cancel,
                deadline=None if params.max_seconds is None else started_at + params.max_seconds,
                on_prefill=on_prefill,
            )

    def _join(self, joining: Sequence[tuple[KVCache, list[_Row]]]) -> None:
        """Append rows that were read; the first ones of an empty batch bring their cache along."""
        self._drop_finished()
        for cache, rows in joining:
            if self._cache is None or not self._rows:
                self._cache, self._rows = cache, rows
            else:
                self._cache.join(cache)
                self._rows += rows

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
        unread, self._ended_unread = self._ended_unread, []
        yield from unread
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
                    if self._num_added == 1:
                        raise
                    raise type(exc)(f"row {row.number}: {exc}") from exc
        self._drop_finished()

    def release_cache(self) -> KVCache | None:
        """The cache of the rows that went last, for a caller that goes on with it; the batch is empty afterwards."""
        cache, self._cache, self._rows = self._cache, None, []
        return cache

    def _feed(self) -> None:
        """Compute the logits after what was chosen last."""
        if not self._rows:
            return
        assert self._cache is not None
        with self._cancel.calling(self._cache.interrupt) if self._cancel else nullcontext():
            if len(self._rows) == 1 and self._speculator is not None:
                self._feed_draft(self._rows[0], self._speculator)
                return
            token_ids = np.array([[row.ids[-1]] for row in self._rows], np.int64)
            logits = step_unless_cancelled(self._runtime, token_ids, self._cache, self._cancel)
        for row, row_logits in zip(self._rows, logits, strict=True):
            row.logits = row_logits[None]

    def _feed_draft(self, row: _Row, speculator: Speculator) -> None:
        assert self._cache is not None
        left = row.params.max_new_tokens - (len(row.ids) - row.prompt_length)
        most = min(left - 1, self._cache.capacity - len(row.ids))
        with self._cancel.calling(speculator.interrupt) if self._cancel else nullcontext():
            row.draft = speculator.propose(row.ids, max(0, most), row.chooser)
        token_ids = np.array([[row.ids[-1], *row.draft]], np.int64)
        started_at = time.perf_counter()
        logits = step_unless_cancelled(self._runtime, token_ids, self._cache, self._cancel, all_logits=bool(row.draft))
        speculator.took(len(row.draft), time.perf_counter() - started_at)
        row.logits = logits[0] if row.draft else logits

    def _tokens_of(self, row: _Row) -> Iterator[TokenEvent]:
        """Choose after every fed token, until a choice is not the one that was drafted."""
        logits, draft = row.logits, row.draft
        row.logits, row.draft = logits[:0], []
        accepted = 0
        for place, row_logits in enumerate(logits):
            event = self._choose(row, row_logits)
            if event.finish_reason is not None:
                row.is_finished = True
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

    def _forget_rest(self, row: _Row, num_drafted: int, accepted: int) -> None:
        if not num_drafted:
            return
        assert self._cache is not None
        self._cache.rewind(self._rows.index(row), len(row.ids) - 1)
        if self._speculator is not None:
            self._speculator.saw(num_drafted, accepted)

    def _choose(self, row: _Row, logits: NDArray[np.float32]) -> TokenEvent:
        step = len(row.ids) - row.prompt_length
        chosen: Chosen = row.chooser.choose(logits, row.ids)
        row.ids.append(chosen.token_id)
        now = time.monotonic()
        return TokenEvent(
            row=row.number,
            token_id=chosen.token_id,
            step=step,
            finish_reason=self._reason(row, chosen.token_id, step, now),
            logprob=chosen.logprob,
            top_logprobs=chosen.top_logprobs,
            seconds=now - row.started_at,
        )

    def _reason(self, row: _Row, token_id: int, step: int, now: float) -> FinishReason | None:
        if token_id == self._runtime.config.eos_token_id:
            return "end_of_text"
        if token_id in row.params.stop_ids:
            return "stop_id"
        if step + 1 == row.params.max_new_tokens:
            return "length"
        if len(row.ids) >= self._runtime.config.context_length or len(row.ids) > self._capacity:
            return "context"
        if row.deadline is not None and now >= row.deadline:
            return "deadline"
        return None

    def _new_row(
        self,
        number: int,
        prompt: Sequence[int],
        params: GenerationParams,
        sample: int,
        started_at: float,
        logits: NDArray[np.float32],
    ) -> _Row:
        chooser = TokenChooser(
            params,
            self._num_allowed_ids,
            prompt_length=len(prompt),
            end_ids=(self._runtime.config.eos_token_id, *params.stop_ids),
            sample=sample,
        )
        return _Row(number, params, len(prompt), list(prompt), chooser, started_at, logits[None])

    def _end_unread(self, firsts: Sequence[int], params: GenerationParams, started_at: float) -> None:
        self._ended_unread += [
            TokenEvent(
                row=first + sample,
                token_id=None,
                step=0,
                finish_reason="deadline",
                seconds=time.monotonic() - started_at,
            )
            for first in firsts
            for sample in range(params.n)
        ]

    def _drop_finished(self) -> None:
        going = [place for place, row in enumerate(self._rows) if not row.is_finished]
        if len(going) < len(self._rows):
            # The last rows fill the gaps: what leaves costs the move of one row, not of all behind it.
            gaps = [place for place, row in enumerate(self._rows[: len(going)]) if row.is_finished]
            fillers = iter([place for place in going if place >= len(going)])
            kept = [next(fillers) if place in gaps else place for place in range(len(going))]
            if going and self._cache is not None:
                self._cache.select(kept)
            self._rows = [self._rows[place] for place in kept]
