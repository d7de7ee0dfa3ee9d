"""The engine: a thread around a scheduler, and verbs that any thread may call."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

from codegen_edge.errors import InvalidInputError
from codegen_edge.generation import Request
from codegen_edge.generation.model import Model
from codegen_edge.server.engine.jobs import Deliver, EngineDeadError, Event, Failed, Job, Ticket
from codegen_edge.server.engine.queue import JobQueue
from codegen_edge.server.engine.scheduler import Scheduler
from codegen_edge.server.engine.state import EngineSettings, EngineState

_IDLE_BEAT_SECONDS = 1.0


class Engine:
    """Runs jobs on one model.

    Args:
        model: opened; the engine's thread is the only one that uses its runtime.
        settings: of the engine.
        deliver: called by the engine's thread after every step that brought something, and by `cancel` for jobs that
            wait; must not block.
    """

    def __init__(self, model: Model, settings: EngineSettings, deliver: Deliver) -> None:
        self.model = model
        self.settings = settings
        self._deliver = deliver
        self._queue = JobQueue(settings)
        self._scheduler = Scheduler(model, settings, self._queue)
        self._is_stopping = False
        self._beat = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="codegen-edge-engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def check_admission(self, client: str | None = None) -> None:
        """Refuse what `submit` would refuse whatever the job, so that its prompts need not be tokenized.

        Args:
            client: of the job; what it has waiting would be replaced.

        Raises:
            QueueFullError, DrainingError, EngineDeadError: as from `submit`.
        """
        self._queue.check_admission(client=client)

    def submit(self, job: Job) -> Ticket:
        """Queue a job; it gets slots in the order of arrival.

        Raises:
            QueueFullError: it would wait behind too many others.
            DrainingError: the engine ends.
            EngineDeadError: its thread has failed.
            InvalidInputError: a prompt has more choices than there are slots, or does not fit the model.
        """
        if job.params.n > self.settings.slots:
            raise InvalidInputError(
                f"{job.params.n} choices of a prompt were asked for, the server has {self.settings.slots} slots"
            )
        if job.params.num_beams > 1:
            raise InvalidInputError("the engine does not search beams: num_beams must be 1")
        model = self.model
        request = Request.of(job.prompts, job.params, model.runtime.config, model.tokenizer.vocab_size)
        # What is scored, looked up and kept is what is read: prompts as `prompt_overflow` cuts them.
        ticket, older = self._queue.submit(replace(job, prompts=request.prompts))
        for each in older:
            self.cancel(each)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """End a job, and no other one, in whichever phase it is; its events say "cancelled"."""
        ticket.cancel.cancel()
        # Those that wait need not wait for the end of the step that runs.
        events = [event for part in self._queue.take_cancelled() for event in self._queue.end(part)]
        if events:
            self._deliver(events)
        with self._queue.condition:
            self._queue.condition.notify_all()

    def drain(self, seconds: float) -> bool:
        """Take no new jobs, and wait for those that are there; whether all of them ended in time."""
        until = time.monotonic() + seconds
        with self._queue.condition:
            self._queue.is_draining = True
            while self._queue.tickets and self._queue.failure is None:
                left = until - time.monotonic()
                if left <= 0:
                    return False
                self._queue.condition.wait(left)
        return True

    def stop(self) -> None:
        """Cancel all jobs and end the thread."""
        with self._queue.condition:
            self._queue.is_draining = self._is_stopping = True
            tickets = list(self._queue.tickets)
        for ticket in tickets:
            self.cancel(ticket)
        with self._queue.condition:
            self._queue.condition.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def snapshot(self) -> EngineState:
        """What it is doing; cheap."""
        scheduler = self._scheduler
        with self._queue.condition:
            tickets = list(self._queue.tickets)
        return EngineState(
            running=sum(ticket.started_at is not None for ticket in tickets),
            waiting=sum(ticket.started_at is None for ticket in tickets),
            waiting_tokens=self._queue.num_tokens,
            slots=self.settings.slots,
            free_slots=scheduler.free_slots,
            prefix_bytes=scheduler.prefixes.size_bytes,
            prefix_queried=scheduler.prefixes.num_queried,
            prefix_hits=scheduler.prefixes.num_hit,
            drafted=scheduler.speculator.num_drafted if scheduler.speculator else 0,
            accepted=scheduler.speculator.num_accepted if scheduler.speculator else 0,
            seconds_since_beat=time.monotonic() - self._beat,
            is_alive=self._queue.failure is None and self._thread.is_alive(),
            has_failed=self._queue.failure is not None,
            is_draining=self._queue.is_draining,
        )

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._beat = time.monotonic()
                events = self._scheduler.turn()
                if events:
                    self._deliver(events)
        # Whatever ends the thread must be known: every waiting client is told, and `ready` turns false.
        except BaseException as exc:  # noqa: BLE001
            dead = EngineDeadError(f"the engine has failed: {type(exc).__name__}: {exc}")
            left: list[tuple[Ticket, Event]] = [(ticket, Failed(None, dead)) for ticket in self._queue.fail(exc)]
            self._deliver(self._scheduler.take_outbox() + left)

    def _wait_for_work(self) -> bool:
        """Wait until there is something to do; False when the engine was stopped and nothing is left."""
        with self._queue.condition:
            while not (len(self._queue) or self._scheduler.is_busy):
                if self._is_stopping:
                    return False
                self._beat = time.monotonic()
                self._queue.condition.wait(_IDLE_BEAT_SECONDS)
        return True
