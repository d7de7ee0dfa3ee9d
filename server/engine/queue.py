"""The jobs that wait for slots, first come, first served; shared by the engine's thread and those of its callers."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

from codegen_edge.errors import CancelledError
from codegen_edge.generation import TextEvent
from codegen_edge.generation.slots import Prefix
from codegen_edge.server.engine.jobs import (
    DrainingError,
    EngineDeadError,
    Event,
    Failed,
    Job,
    Piece,
    QueueFullError,
    Ticket,
)
from codegen_edge.server.engine.scoring import PromptScorer
from codegen_edge.server.engine.state import EngineSettings

_SECONDS_OF_A_JOB = 2.0  # believed until one has finished
_MEMORY = 0.8  # share of that average that one more job leaves


@dataclass(slots=True, eq=False)
class Part:
    """One prompt of a job and its choices: what gets slots together.

    Attributes:
        ticket: of the job.
        prompt_number: which of its prompts.
        scorer: where the prompt's own log probabilities are wanted.
        prefix: what is known of the prompt already, when it was scored.
    """

    ticket: Ticket
    prompt_number: int
    scorer: PromptScorer | None = None
    prefix: Prefix | None = None

    @property
    def prompt(self) -> tuple[int, ...]:
        """Its token ids."""
        return self.ticket.job.prompts[self.prompt_number]

    @property
    def is_to_be_scored(self) -> bool:
        """Whether its log probabilities are wanted and not begun."""
        return self.ticket.job.prompt_logprobs is not None and self.scorer is None


class JobQueue:
    """Bounded in jobs and in prompt tokens.

    Args:
        settings: the bounds.

    Attributes:
        condition: notified when there is something to do, and when a job has ended.
        tickets: of all jobs that have not ended.
        is_draining: whether new jobs are refused.
        failure: what ended the engine's thread.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self.condition = threading.Condition()
        self.tickets: set[Ticket] = set()
        self._num_free = settings.slots  # for jobs that come: those that will have a slot at once do not wait
        self.is_draining = False
        self.failure: BaseException | None = None
        self._settings = settings
        self._parts: deque[Part] = deque()
        self._job_seconds = _SECONDS_OF_A_JOB

    def __len__(self) -> int:
        return len(self._parts)

    @property
    def num_tokens(self) -> int:
        """Of the prompts that wait."""
        with self.condition:
            return sum(len(part.prompt) for part in self._parts)

    def check_admission(self, num_tokens: int = 0, client: str | None = None) -> None:
        """Raise QueueFullError, DrainingError or EngineDeadError where a job of so many tokens cannot be taken.

        What the same client has waiting does not count: the new job replaces it.
        """
        with self.condition:
            if self.failure is not None:
                raise EngineDeadError(f"the engine has failed: {self.failure}")
            if self.is_draining:
                raise DrainingError("the server is shutting down")
            parts = [part for part in self._parts if client is None or part.ticket.job.client != client]
            num_jobs, waiting = len({part.ticket for part in parts}), sum(len(part.prompt) for part in parts)
            is_full = num_jobs >= self._settings.max_queued + self._num_free
            if is_full or (num_jobs and waiting + num_tokens > self._settings.max_queued_tokens):
                raise QueueFullError(
                    f"{num_jobs} requests with {waiting} tokens are waiting",
                    retry_after=max(1.0, self._job_seconds * max(1, num_jobs) / self._settings.slots),
                )

    def submit(self, job: Job) -> tuple[Ticket, list[Ticket]]:
        """Append a job; its ticket, and those of older jobs of the same client."""
        ticket = Ticket(job)
        with self.condition:
            self.check_admission(job.num_prompt_tokens, job.client)
            older = [each for each in self.tickets if job.client is not None and each.job.client == job.client]
            self.tickets.add(ticket)
            self._parts.extend(Part(ticket, number) for number in range(len(job.prompts)))
            self.condition.notify_all()
        return ticket, older

    def take(self, free_slots: int, *, can_score: bool = True) -> Part | None:
        """The part that came first, where the slots suffice for it, and its turn to be scored; nothing overtakes it."""
        with self.condition:
            if not self._parts or self._parts[0].ticket.job.params.n > free_slots:
                return None
            if self._parts[0].is_to_be_scored and not can_score:
                return None
            return self._parts.popleft()

    def tell_free(self, slots: int) -> None:
        """So many slots are free; not for jobs that come where others wait for them."""
        with self.condition:
            self._num_free = 0 if self._parts else slots

    def put_back(self, part: Part) -> None:
        """In front of all that wait: it had its turn and needs a slot now."""
        with self.condition:
            self._parts.appendleft(part)

    def take_cancelled(self) -> list[Part]:
        """Those that wait no longer because their job was cancelled."""
        with self.condition:
            cancelled = [part for part in self._parts if part.ticket.cancel.is_cancelled]
            for part in cancelled:
                self._parts.remove(part)
        return cancelled

    def end(self, part: Part) -> list[tuple[Ticket, Event]]:
        """A part that was cancelled before it had slots: what is to be delivered."""
        ticket, job = part.ticket, part.ticket.job
        if job.is_score_only:
            if ticket.is_finished:  # by another of its prompts
                return []
            self.close(ticket, ticket.num_open)
            return [(ticket, Failed(None, CancelledError("the request was cancelled")))]
        events: list[tuple[Ticket, Event]] = []
        for sample in range(job.params.n):
            event = TextEvent(row=part.prompt_number, sample=sample, text="", token_id=None, finish_reason="cancelled")
            events.append((ticket, Piece(part.prompt_number * job.params.n + sample, event)))
            self.close(ticket, 1)
        return events

    def close(self, ticket: Ticket, num_choices: int) -> None:
        """So many choices of a job have ended; with the last one the job is gone, and what it still has waiting."""
        with self.condition:
            ticket.num_open -= min(num_choices, ticket.num_open)
            if ticket.num_open:
                return
            ticket.finished_at = time.monotonic()
            if ticket.started_at is not None:
                seconds = ticket.finished_at - ticket.started_at
                self._job_seconds = _MEMORY * self._job_seconds + (1 - _MEMORY) * seconds
            self.tickets.discard(ticket)
            for part in [part for part in self._parts if part.ticket is ticket]:
                self._parts.remove(part)
            self.condition.notify_all()

    def fail(self, error: BaseException) -> list[Ticket]:
        """The engine's thread has ended; the tickets of the jobs that it leaves."""
        with self.condition:
            self.failure = error
            left = list(self.tickets)
            for ticket in left:
                ticket.num_open, ticket.finished_at = 0, time.monotonic()
            self.tickets.clear()
            self._parts.clear()
            self.condition.notify_all()
        return left
