"""Models that are served, and the way of their engines' events into the event loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from codegen_edge.generation.model import Model
from codegen_edge.server.engine import Engine, EngineSettings, Event, Failed, Job, Piece, Scored, Started, Ticket
from codegen_edge.server.http.errors import ApiError

_MOST_EVENTS = 256  # that wait for a reader; one that falls further behind is cancelled

Observe = Callable[[str, Ticket, Event], None]
"""Called in the event loop with the model's name, for every event."""


@dataclass(slots=True, eq=False)
class Running:
    """A job and the events that its handler has not taken yet; used in the event loop only."""

    served: ServedModel
    ticket: Ticket
    is_stalled: bool = False
    _num_open: int = 0
    _events: deque[Event] = field(default_factory=deque)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._num_open = self.ticket.num_open

    @property
    def is_complete(self) -> bool:
        """Whether the last event has come."""
        return self._num_open <= 0

    def push(self, event: Event) -> None:
        """Take an event from the engine."""
        self._num_open -= self._ended_by(event)
        if len(self._events) >= _MOST_EVENTS and not self.is_stalled:
            self.is_stalled = True
            self.cancel()
        self._events.append(event)
        self._arrived.set()

    def cancel(self) -> None:
        """End it; its last events still come."""
        self.served.engine.cancel(self.ticket)

    async def events(self) -> AsyncIterator[Event]:
        """All events, to the last one."""
        while True:
            while self._events:
                yield self._events.popleft()
            if self.is_complete:
                return
            self._arrived.clear()
            await self._arrived.wait()

    async def first(self, seconds: float) -> None:
        """Wait until there is an event.

        Raises:
            ApiError: 504 where none comes in time; the job is cancelled then.
        """
        try:
            await asyncio.wait_for(self._arrived.wait(), seconds)
        except TimeoutError:
            self.cancel()
            raise ApiError(
                504, f"no slot was free for {seconds:g} s", kind="server_error", code="queue_timeout"
            ) from None

    def _ended_by(self, event: Event) -> int:
        match event:
            case Piece():
                return int(event.event.finish_reason is not None)
            case Failed(choice=None):
                return self._num_open
            case Failed():
                return 1
            case Scored():
                return int(self.ticket.job.is_score_only)
            case Started():
                pass
        return 0


class ServedModel:
    """A model with an engine, under the name that clients use.

    Args:
        name: of the model.
        model: opened.
        settings: of its engine.
        aliases: further names.
    """

    def __init__(self, name: str, model: Model, settings: EngineSettings, *, aliases: Sequence[str] = ()) -> None:
        self.name = name
        self.names = (name, *aliases)
        self.model = model
        self.created = int(time.time())
        self.engine = Engine(model, settings, self._deliver)
        self._running: dict[Ticket, Running] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._observe: Observe = lambda name, ticket, event: None

    @property
    def context_length(self) -> int:
        """Tokens of prompt and completion together."""
        return self.model.runtime.config.context_length

    def start(self, observe: Observe) -> None:
        """Start the engine; its events go to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._observe = observe
        self.engine.start()

    def submit(self, job: Job) -> Running:
        """Queue a job; raises what `Engine.submit` raises."""
        ticket = self.engine.submit(job)
        running = Running(self, ticket)
        self._running[ticket] = running
        return running

    def _deliver(self, events: Sequence[tuple[Ticket, Event]]) -> None:
        """In the engine's thread: one call into the loop for a step."""
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._dispatch, events)

    def _dispatch(self, events: Sequence[tuple[Ticket, Event]]) -> None:
        for ticket, event in events:
            self._observe(self.name, ticket, event)
            running = self._running.get(ticket)
            if running is not None:
                running.push(event)
                if running.is_complete:
                    del self._running[ticket]
