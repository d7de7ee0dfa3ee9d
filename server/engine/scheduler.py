"""What the engine's thread does in one turn: admission, a slice of scoring, one step, and what they brought."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

from codegen_edge.errors import CodegenEdgeError
from codegen_edge.generation import Request, RowOutput, TokenEvent
from codegen_edge.generation.model import Model
from codegen_edge.generation.slots import Prefix, SlotBatch, slot_batch
from codegen_edge.generation.speculation import PromptLookup, Speculator, free_drafts
from codegen_edge.runtimes.runtime import KVCache
from codegen_edge.server.engine.jobs import Event, Failed, Job, Piece, Scored, Started, Ticket
from codegen_edge.server.engine.prefixes import PrefixCache
from codegen_edge.server.engine.queue import JobQueue, Part
from codegen_edge.server.engine.scoring import PromptScorer
from codegen_edge.server.engine.state import EngineSettings

# A step in which nobody decodes may take so many times as long; and that of one request, which its cancel stops.
_READING_FACTOR, _ALONE_FACTOR = 4.0, 10.0
_SCORED_TOKENS = 32  # of a slice: its logits are [T, V]


@dataclass(slots=True, eq=False)
class _Choice:
    """One row's way to its client."""

    ticket: Ticket
    part: Part
    number: int
    output: RowOutput


class Scheduler:
    """Owns a runtime: its slots, its kept prefixes and the prompts that are scored. One thread uses it.

    Args:
        model: opened.
        settings: of the engine.
        queue: whose jobs it runs.
    """

    def __init__(self, model: Model, settings: EngineSettings, queue: JobQueue) -> None:
        self._model = model
        self._settings = settings
        self._queue = queue
        self._choices: dict[int, _Choice] = {}  # by the number of the row
        self._scoring: deque[Part] = deque()
        self._outbox: list[tuple[Ticket, Event]] = []
        self.prefixes = PrefixCache(
            model.runtime,
            bytes_per_token=settings.bytes_per_token,
            max_bytes=settings.prefix_bytes,
        )
        num_free = free_drafts(model.runtime)
        self.speculator = Speculator(PromptLookup(), num_free=num_free) if settings.is_drafting else None
        self._batch = self._new_batch()

    @property
    def is_busy(self) -> bool:
        """Whether a job has slots or is scored."""
        return bool(self._choices or self._scoring)

    @property
    def free_slots(self) -> int:
        """Rows that may be admitted."""
        return self._batch.free_slots or 0

    def turn(self) -> list[tuple[Ticket, Event]]:
        """One step for everybody."""
        self._drop_cancelled()
        self._admit()
        try:
            self._score()
            if self._choices:
                for event in self._batch.step(self._step_seconds()):
                    self._take(event)
        except CodegenEdgeError as exc:
            self._fail_all(exc)
        self._queue.tell_free(self.free_slots)
        return self.take_outbox()

    def take_outbox(self) -> list[tuple[Ticket, Event]]:
        """What was not given out yet; something is left only where a turn failed."""
        outbox, self._outbox = self._outbox, []
        return outbox

    def _new_batch(self) -> SlotBatch:
        return slot_batch(
            self._model.runtime,
            slots=self._settings.slots,
            num_allowed_ids=self._model.tokenizer.vocab_size,
            speculator=self.speculator,
            on_row_error=self._fail_row,
            on_read=self._keep_prefix,
        )

    def _step_seconds(self) -> float:
        is_decoding = any(choice.ticket.first_token_at is not None for choice in self._choices.values())
        factor = 1.0 if is_decoding else _ALONE_FACTOR if len(self._choices) == 1 else _READING_FACTOR
        return self._settings.max_step_seconds * factor

    def _drop_cancelled(self) -> None:
        """Of the jobs that wait or are scored; rows that have slots are ended by their batch."""
        cancelled = self._queue.take_cancelled()
        for part in [part for part in self._scoring if part.ticket.cancel.is_cancelled]:
            self._scoring.remove(part)
            cancelled.append(part)
        for part in cancelled:
            self._outbox += self._queue.end(part)

    def _admit(self) -> None:
        while (part := self._next_part()) is not None:
            try:
                self._begin(part)
            except CodegenEdgeError as exc:
                self._fail_part(part, exc)
        self._queue.tell_free(self.free_slots)

    def _next_part(self) -> Part | None:
        """One prompt is scored at a time, with slots set aside for what follows, so that nothing overtakes it."""
        reserved = sum(part.ticket.job.params.n for part in self._scoring if not part.ticket.job.is_score_only)
        return self._queue.take(self.free_slots - reserved, can_score=not self._scoring)

    def _begin(self, part: Part) -> None:
        ticket, job = part.ticket, part.ticket.job
        if job.prompt_logprobs is not None and part.scorer is None:
            part.scorer = PromptScorer(
                self._model.runtime,
                part.prompt,
                job.prompt_logprobs,
                self._model.tokenizer.vocab_size,
            )
            self._scoring.append(part)
            self._start(ticket, 0)
            return
        scored, part.prefix = part.prefix, None
        prefix = scored or self.prefixes.find(job.owner, part.prompt)
        rows = self._batch.admit(self._request(job, part.prompt), prefix=prefix, cancel=ticket.cancel)
        for sample, row in enumerate(rows):
            output = RowOutput(
                self._model.tokenizer,
                job.params,
                self._model.runtime.config.eos_token_id,
                len(part.prompt),
                row=part.prompt_number,
                sample=sample,
            )
            self._choices[row] = _Choice(ticket, part, part.prompt_number * job.params.n + sample, output)
        self._start(ticket, prefix.length if prefix is not None and scored is None else 0)

    def _request(self, job: Job, prompt: tuple[int, ...]) -> Request:
        return Request.of([prompt], job.params, self._model.runtime.config, self._model.tokenizer.vocab_size)

    def _start(self, ticket: Ticket, num_cached: int) -> None:
        ticket.num_cached += num_cached
        if ticket.started_at is None:
            ticket.started_at = time.monotonic()
            self._emit(ticket, Started(num_cached))

    def _score(self) -> None:
        """Read a slice of the oldest prompt that is scored."""
        if not self._scoring:
            return
        part = self._scoring[0]
        assert part.scorer is not None
        try:
            part.scorer.read(_SCORED_TOKENS)
        except CodegenEdgeError as exc:
            self._scoring.popleft()
            self._fail_part(part, exc)
            return
        if not part.scorer.is_done:
            return
        self._scoring.popleft()
        self._emit(part.ticket, Scored(part.prompt_number, part.scorer.scores()))
        if part.ticket.job.is_score_only:
            self._queue.close(part.ticket, 1)
            return
        if len(part.prompt) > 1:
            part.prefix = Prefix(part.scorer.cache, len(part.prompt) - 1)
        self._queue.put_back(part)

    def _take(self, event: TokenEvent) -> None:
        choice = self._choices.get(event.row)
        if choice is None:
            return
        text = choice.output.add(event)
        if event.token_id is not None:
            choice.ticket.num_generated += 1
            choice.ticket.first_token_at = choice.ticket.first_token_at or time.monotonic()
        if choice.output.is_stopped:
            self._batch.finish(event.row)
        self._emit(choice.ticket, Piece(choice.number, text))
        if text.finish_reason is not None:
            del self._choices[event.row]
            self._queue.close(choice.ticket, 1)

    def _keep_prefix(self, row: int, cache: KVCache, place: int) -> None:
        choice = self._choices.get(row)
        if choice is not None:
            self.prefixes.keep(choice.ticket.job.owner, choice.part.prompt, cache, place)

    def _fail_part(self, part: Part, error: Exception) -> None:
        """All of its job ends, and with it the rows and the prompts that its other parts have."""
        ticket = part.ticket
        for row in [row for row, choice in self._choices.items() if choice.ticket is ticket]:
            del self._choices[row]
            self._batch.finish(row)
        self._scoring = deque(each for each in self._scoring if each.ticket is not ticket)
        self._emit(ticket, Failed(None, error))
        self._queue.close(ticket, ticket.num_open)

    def _fail_row(self, row: int, error: Exception) -> None:
        choice = self._choices.pop(row, None)
        if choice is not None:
            self._emit(choice.ticket, Failed(choice.number, error))
            self._queue.close(choice.ticket, 1)

    def _fail_all(self, error: Exception) -> None:
        """A run failed: the rows that were in it end, those that wait get a batch of their own."""
        for row in list(self._choices):
            self._fail_row(row, error)
        self._batch = self._new_batch()

    def _emit(self, ticket: Ticket, event: Event) -> None:
        self._outbox.append((ticket, event))
