"""What the engine's tests stand on: a model that follows a script, a gate before its steps, an inbox for its events."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from codegen_edge.bundle import Bundle
from codegen_edge.generation import GenerationLoop, GenerationParams, TextEvent
from codegen_edge.generation.model import Model
from codegen_edge.generation.output import Collector
from codegen_edge.runtimes.backends.scripted import Script, ScriptedRuntime
from codegen_edge.server.engine import Engine, EngineSettings, Failed, Job, Piece, Scored, Ticket
from codegen_edge.server.engine.jobs import Event
from codegen_edge.tokenizer import Tokenizer

VOCAB_SIZE, NUM_IDS, EOS = 32, 30, 0  # the model has two ids more than the tokenizer
PATIENCE_SECONDS = 10.0  # far more than anything here takes, also on a busy machine


class RaggedRuntime(ScriptedRuntime):
    """Takes prompts into the run of the rows that decode."""

    runs_ragged = True


KINDS = (ScriptedRuntime, RaggedRuntime)


class LetterTokenizer:
    """Every id is a letter, the end of text has a name."""

    vocab_size = NUM_IDS

    def token_bytes(self, token_id: int) -> bytes:
        return b"<end>" if token_id == EOS else bytes([ord("A") + token_id])

    def decode(self, token_ids: Sequence[int]) -> str:
        return b"".join(map(self.token_bytes, token_ids)).decode()

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - ord("A") for letter in text]


TOKENIZER = cast(Tokenizer, LetterTokenizer())


def hash_script(sequence: tuple[int, ...]) -> NDArray[np.float32]:
    """Logits that look random and depend on every token."""
    logits = np.random.default_rng(zlib.crc32(bytes(sequence))).normal(size=VOCAB_SIZE).astype(np.float32)
    logits[EOS] -= 2
    return logits


def broken_after_seven(sequence: tuple[int, ...]) -> NDArray[np.float32]:
    """Logits that are NaN from the fourth token on, in rows that begin with 7."""
    is_broken = sequence[0] == 7 and len(sequence) > 3
    return np.full(VOCAB_SIZE, np.nan, np.float32) if is_broken else hash_script(sequence)


def runtime_of(kind: type[ScriptedRuntime] = ScriptedRuntime, script: Script = hash_script, **options: Any) -> Any:
    return kind(script, vocab_size=VOCAB_SIZE, eos_token_id=EOS, **options)


def model_of(runtime: ScriptedRuntime) -> Model:
    return Model(cast(Bundle, None), runtime, TOKENIZER)


def greedy(max_new_tokens: int, **fields: Any) -> GenerationParams:
    return GenerationParams(max_new_tokens=max_new_tokens, suppressed_ids=(EOS,), **fields)


def sampled(max_new_tokens: int, **fields: Any) -> GenerationParams:
    return greedy(max_new_tokens, temperature=1.0, **{"seed": 7, **fields})


def job_of(*prompts: Sequence[int], params: GenerationParams | None = None, **fields: Any) -> Job:
    return Job(prompts=tuple(map(tuple, prompts)), params=params or greedy(6), **fields)


def without_time(event: TextEvent) -> TextEvent:
    return replace(event, seconds=0.0)


def alone(job: Job, script: Script = hash_script, **options: Any) -> dict[int, list[TextEvent]]:
    """What the generation loop gives for a job that has a runtime to itself, by choice."""
    runtime = runtime_of(script=script, **options)
    loop = GenerationLoop(runtime, job.prompts, job.params, num_allowed_ids=NUM_IDS)
    choices: dict[int, list[TextEvent]] = {}
    for event in Collector(loop, TOKENIZER, EOS).events():
        choices.setdefault(event.row * job.params.n + event.sample, []).append(without_time(event))
    return choices


class Gate:
    """Stands before every step of a runtime: steps pass, wait to be let through, or fail."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._is_held = self._is_reached = False
        self._num_permits = 0
        self._error: Exception | None = None

    def __call__(self, number: int) -> None:
        with self._condition:
            while self._is_held and not self._num_permits:
                self._is_reached = True
                self._condition.notify_all()
                assert self._condition.wait(PATIENCE_SECONDS), "nobody let the step through"
            self._is_reached = False
            self._num_permits -= self._is_held
            error, self._error = self._error, None
        if error is not None:
            raise error

    def hold(self) -> None:
        """From now on steps wait."""
        with self._condition:
            self._is_held, self._num_permits = True, 0

    def open(self) -> None:
        """All steps pass."""
        with self._condition:
            self._is_held = False
            self._condition.notify_all()

    def fail(self, error: Exception) -> None:
        """The next step that passes, or the one that waits here, raises."""
        with self._condition:
            self._error = error

    def wait(self) -> None:
        """Until a step waits here."""
        with self._condition:
            assert self._condition.wait_for(lambda: self._is_reached, PATIENCE_SECONDS), "no step came"

    def pass_steps(self, count: int = 1) -> None:
        """Let steps through, one by one; the one after them waits here."""
        for _ in range(count):
            self.wait()
            with self._condition:
                self._num_permits += 1
                self._is_reached = False
                self._condition.notify_all()
        self.wait()


class Inbox:
    """Keeps what an engine delivers, call by call."""

    def __init__(self) -> None:
        self.calls: list[list[tuple[Ticket, Event]]] = []
        self.threads: set[str] = set()
        self._condition = threading.Condition()

    def __call__(self, events: Sequence[tuple[Ticket, Event]]) -> None:
        with self._condition:
            self.calls.append(list(events))
            self.threads.add(threading.current_thread().name)
            self._condition.notify_all()

    def events(self, ticket: Ticket) -> list[Event]:
        with self._condition:
            return [event for call in self.calls for owner, event in call if owner is ticket]

    def pieces(self, ticket: Ticket) -> dict[int, list[TextEvent]]:
        """By choice."""
        choices: dict[int, list[TextEvent]] = {}
        for event in self.events(ticket):
            if isinstance(event, Piece):
                choices.setdefault(event.choice, []).append(without_time(event.event))
        return choices

    def num_tokens(self, ticket: Ticket) -> int:
        return sum(event.token_id is not None for piece in self.pieces(ticket).values() for event in piece)

    def scored(self, ticket: Ticket) -> dict[int, Any]:
        """By prompt."""
        return {event.prompt: event.scores for event in self.events(ticket) if isinstance(event, Scored)}

    def endings(self, ticket: Ticket) -> dict[int, list[str | Exception]]:
        """What ended each choice, or each prompt of a job that is only scored; one thing each, if all is well."""
        job = ticket.job
        ended: dict[int, list[str | Exception]] = {
            each: [] for each in range(len(job.prompts) if job.is_score_only else job.num_choices)
        }
        for event in self.events(ticket):
            if isinstance(event, Piece) and event.event.finish_reason is not None:
                ended[event.choice].append(event.event.finish_reason)
            elif isinstance(event, Scored) and job.is_score_only:
                ended[event.prompt].append("scored")
            elif isinstance(event, Failed) and event.choice is not None:
                ended[event.choice].append(event.error)
            elif isinstance(event, Failed):
                for each in [each for each, reasons in ended.items() if not reasons] or list(ended):
                    ended[each].append(event.error)
        return ended

    def wait_until(self, is_there: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + PATIENCE_SECONDS
        with self._condition:
            while not is_there():
                assert self._condition.wait(until - time.monotonic()), f"waited in vain for {what}"

    def wait_for_end(self, *tickets: Ticket) -> None:
        for ticket in tickets:
            self.wait_until(partial(self._has_ended, ticket), f"the end of job {ticket.number}")

    def _has_ended(self, ticket: Ticket) -> bool:
        return all(self.endings(ticket).values())

    def reasons(self, ticket: Ticket) -> list[str | Exception]:
        """Wait for a job's end; why each choice ended, exactly once."""
        self.wait_for_end(ticket)
        ended = self.endings(ticket)
        assert all(len(reasons) == 1 for reasons in ended.values()), f"job {ticket.number} ended twice: {ended}"
        return [reasons[0] for reasons in ended.values()]


@dataclass(frozen=True, slots=True)
class Rig:
    """An engine that runs, and what surrounds it."""

    engine: Engine
    runtime: ScriptedRuntime
    gate: Gate
    inbox: Inbox

    def submit(self, *prompts: Sequence[int], params: GenerationParams | None = None, **fields: Any) -> Ticket:
        return self.engine.submit(job_of(*prompts, params=params, **fields))

    def check(self, *tickets: Ticket) -> None:
        """These jobs got what they get alone."""
        self.inbox.wait_for_end(*tickets)
        for ticket in tickets:
            assert self.inbox.pieces(ticket) == alone(ticket.job), f"job {ticket.number}"

    def check_is_empty(self) -> None:
        """All jobs end, and nothing is left of any; the engine is stopped."""
        assert self.engine.drain(PATIENCE_SECONDS)
        self.engine.stop()
        state = self.engine.snapshot()
        assert (state.running, state.waiting, state.waiting_tokens) == (0, 0, 0)
        assert state.free_slots == state.slots


@contextmanager
def running(
    slots: int = 4,
    kind: type[ScriptedRuntime] = ScriptedRuntime,
    script: Script = hash_script,
    *,
    context_length: int = 2048,
    **settings: Any,
) -> Iterator[Rig]:
    """An engine on a scripted model; it is stopped at the end."""
    gate, inbox = Gate(), Inbox()
    runtime = runtime_of(kind, script, before_step=gate, context_length=context_length)
    engine = Engine(model_of(runtime), EngineSettings(slots=slots, **settings), inbox)
    engine.start()
    try:
        yield Rig(engine, runtime, gate, inbox)
    finally:
        gate.open()
        engine.stop()
