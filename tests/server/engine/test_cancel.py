"""A job that is cancelled ends in whichever phase it is, frees its slots, and changes nobody else's tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from codegen_edge.errors import CancelledError
from codegen_edge.generation import RowOutput, TextEvent, TokenEvent
from codegen_edge.server.engine import Job, Ticket
from tests.server.engine.fakes import KINDS, RaggedRuntime, Rig, alone, greedy, hash_script, job_of, running, sampled

SLICED = 5e-7  # seconds of a step: a prompt is read in the smallest slices

# A job of each phase, and whether it is in that phase.
PHASES: dict[str, tuple[Job, Callable[[Rig, Ticket], bool]]] = {
    "queued": (
        job_of([4], [5], params=sampled(5, n=3)),
        lambda rig, ticket: ticket.started_at is None and len(rig.runtime.steps) > 3,
    ),
    "scored": (
        job_of([4] * 100, params=greedy(5), prompt_logprobs=1),
        lambda rig, ticket: (1, 32) in rig.runtime.steps and not rig.inbox.scored(ticket),
    ),
    "reading its prompt": (
        job_of([4] * 200, params=sampled(5, n=2, prefill_chunk=16)),
        lambda rig, ticket: is_reading(rig) and not rig.inbox.num_tokens(ticket),
    ),
    "decoding": (
        job_of([4], params=sampled(50, n=2)),
        lambda rig, ticket: rig.inbox.num_tokens(ticket) > 5,
    ),
    "partly queued": (
        job_of([4], [5], [6], params=sampled(50)),
        lambda rig, ticket: set(rig.inbox.pieces(ticket)) == {0, 1} and rig.engine.snapshot().waiting_tokens == 1,
    ),
}


def is_reading(rig: Rig) -> bool:
    return sum(num_tokens > 1 for _, num_tokens in rig.runtime.steps) > 2


def check_beginning(found: dict[int, list[TextEvent]], whole: dict[int, list[TextEvent]]) -> None:
    """What a cancelled job has got is the beginning of what it would have got, and says that it was cancelled."""
    for choice, pieces in found.items():
        *tokens, last = pieces
        assert tokens == whole[choice][: len(tokens)]
        assert (last.token_id, last.finish_reason) == (None, "cancelled")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("phase", PHASES)
def test_job_is_cancelled_in_every_phase(kind: Any, phase: str) -> None:
    job, is_there = PHASES[phase]
    with running(3, kind, max_step_seconds=SLICED) as rig:
        rig.gate.hold()
        other = rig.submit([3], params=greedy(60))
        victim = rig.engine.submit(job)
        while not is_there(rig, victim):
            assert len(rig.runtime.steps) < 50, f"never {phase}"
            rig.gate.pass_steps()
        later = rig.submit([8], params=sampled(6, n=2))
        rig.engine.cancel(victim)
        rig.gate.open()
        assert set(rig.inbox.reasons(victim)) == {"cancelled"}
        check_beginning(rig.inbox.pieces(victim), alone(job))
        rig.check(other, later)
        rig.check_is_empty()


@pytest.mark.parametrize("kind", KINDS)
def test_job_is_cancelled_while_another_prompt_is_read(kind: Any) -> None:
    with running(3, kind, max_step_seconds=SLICED) as rig:
        rig.gate.hold()
        first = rig.submit([3] * 200, params=greedy(6))
        victim = rig.submit([4] * 200, params=sampled(5, n=2))
        rig.gate.pass_steps(2)
        rig.engine.cancel(victim)
        rig.gate.open()
        assert rig.inbox.reasons(victim) == ["cancelled", "cancelled"]
        rig.check(first)
        rig.check_is_empty()


def test_cancelling_a_job_that_has_ended_does_nothing() -> None:
    with running(1) as rig:
        ticket = rig.submit([3])
        rig.check(ticket)
        before = rig.inbox.events(ticket)
        rig.engine.cancel(ticket)
        rig.engine.cancel(ticket)
        rig.check(rig.submit([4]))
        assert rig.inbox.events(ticket) == before


@pytest.mark.parametrize("state", ["runs", "waits"])
def test_newer_job_of_a_client_cancels_its_older_one(state: str) -> None:
    with running(2) as rig:
        rig.gate.hold()
        others = [rig.submit([5], params=greedy(30), client="b"), rig.submit([7], params=greedy(30), client=None)]
        if state == "runs":
            old = rig.submit([6], params=greedy(30), client="a")
            others.append(rig.submit([7], params=greedy(30), client=None))
        else:
            others.append(rig.submit([7], params=greedy(30), client=None))
            old = rig.submit([6], params=greedy(30), client="a")
        rig.gate.pass_steps(3)
        new = rig.submit([6], params=greedy(9), client="a")
        rig.gate.open()
        assert rig.inbox.reasons(old) == ["cancelled"]
        rig.check(new, *others)
        rig.check_is_empty()


def test_job_that_is_only_scored_ends_when_it_is_cancelled() -> None:
    with running(1) as rig:
        rig.gate.hold()
        victim = rig.submit([1, 2] * 50, [3, 4] * 50, prompt_logprobs=0, is_score_only=True, client="a")
        rig.gate.pass_steps()
        waiting = rig.submit([4, 5] * 50, prompt_logprobs=0, is_score_only=True)
        rig.engine.cancel(waiting)
        new = rig.submit([6], client="a")
        rig.gate.open()
        rig.check(new)
        for ticket in (victim, waiting):
            assert all(isinstance(reason, CancelledError) for reason in rig.inbox.reasons(ticket))
        rig.check_is_empty()


@pytest.mark.parametrize("kind", KINDS)
def test_cancel_at_the_very_end_of_a_run_stops_no_run_of_others(kind: Any) -> None:
    cancel: list[Callable[[], None]] = []

    def script(sequence: tuple[int, ...]) -> NDArray[np.float32]:
        if sequence == (9,) * 8 and cancel:
            cancel.pop()()  # within the run, when it can no longer be stopped
        return hash_script(sequence)

    with running(2, kind, script) as rig:
        rig.gate.hold()
        victim = rig.submit([9] * 8, params=greedy(50))
        rig.gate.wait()
        cancel.append(lambda: rig.engine.cancel(victim))
        other = rig.submit([4], params=greedy(10))
        rig.gate.open()
        assert rig.inbox.reasons(victim) == ["cancelled"]
        assert rig.inbox.reasons(other) == ["length"]
        rig.check(other, rig.submit([5]))


def test_cancel_that_comes_while_another_one_is_handled_kills_no_engine() -> None:
    tickets: list[Ticket] = []
    add = RowOutput.add

    def add_and_cancel(output: RowOutput, event: TokenEvent) -> TextEvent:
        if event.finish_reason == "cancelled":  # the batch has looked at the first job before, in the same step
            tickets[0].cancel.cancel()
        return add(output, event)

    with pytest.MonkeyPatch.context() as patch, running(2, RaggedRuntime, max_step_seconds=SLICED) as rig:
        patch.setattr(RowOutput, "add", add_and_cancel)
        rig.gate.hold()
        tickets += [rig.submit([1] * 100), rig.submit([2] * 100)]
        rig.gate.pass_steps(2)
        rig.engine.cancel(tickets[1])
        rig.gate.open()
        assert [rig.inbox.reasons(ticket) for ticket in tickets] == [["cancelled"], ["cancelled"]]
        rig.check(rig.submit([3]))
        rig.check_is_empty()
