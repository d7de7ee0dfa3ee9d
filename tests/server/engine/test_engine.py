"""The engine's thread: what it takes and refuses, how it ends, and what it says when it dies."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from codegen_edge.errors import CodegenEdgeError, ContextLengthError, InvalidInputError
from codegen_edge.generation import GenerationParams
from codegen_edge.server.engine import DrainingError, Engine, EngineDeadError, EngineSettings, Failed, QueueFullError
from tests.server.engine.fakes import (
    KINDS,
    PATIENCE_SECONDS,
    VOCAB_SIZE,
    Inbox,
    alone,
    greedy,
    hash_script,
    job_of,
    model_of,
    running,
    runtime_of,
    sampled,
)


@pytest.mark.parametrize("kind", KINDS)
def test_error_that_nobody_expects_ends_every_job_and_the_engine_says_so(kind: Any) -> None:
    with running(2, kind) as rig:
        rig.gate.hold()
        tickets = [rig.submit([1], [2], params=greedy(30)), rig.submit([3], params=greedy(30))]
        rig.gate.pass_steps(3)
        tickets.append(rig.submit([4], prompt_logprobs=1, is_score_only=True))
        rig.gate.fail(RuntimeError("a bug"))
        rig.gate.open()
        rig.inbox.wait_for_end(*tickets)
        for ticket in tickets:
            last = rig.inbox.events(ticket)[-1]
            assert isinstance(last, Failed)
            assert last.choice is None
            assert isinstance(last.error, EngineDeadError)
            assert "RuntimeError: a bug" in str(last.error)
            rig.inbox.reasons(ticket)
        state = rig.engine.snapshot()
        assert (state.is_alive, state.running, state.waiting) == (False, 0, 0)
        for refused in (lambda: rig.submit([5]), rig.engine.check_admission):
            with pytest.raises(EngineDeadError, match="a bug"):
                refused()
        assert rig.engine.drain(PATIENCE_SECONDS)
        rig.engine.cancel(tickets[0])


def test_job_that_the_engine_left_is_finished() -> None:
    with running(1) as rig:
        rig.gate.hold()
        ticket = rig.submit([1])
        rig.gate.wait()
        rig.gate.fail(RuntimeError("a bug"))
        rig.gate.open()
        rig.inbox.wait_for_end(ticket)
        assert ticket.is_finished


@pytest.mark.parametrize("kind", KINDS)
def test_job_that_ends_in_the_turn_in_which_the_engine_dies_is_told(kind: Any) -> None:
    with running(1, kind) as rig:
        rig.gate.hold()
        dying = rig.submit([1], params=greedy(30))
        rig.gate.pass_steps(3)
        cancelled = rig.submit([2])
        rig.engine.cancel(cancelled)
        rig.gate.pass_steps()  # the turn of the step that waits now has ended the cancelled one
        rig.gate.fail(RuntimeError("a bug"))
        rig.gate.open()
        assert [type(reason) for reason in rig.inbox.reasons(dying)] == [EngineDeadError]
        assert rig.inbox.reasons(cancelled) == ["cancelled"]


def test_last_tokens_before_the_engine_dies_are_delivered() -> None:
    ended = threading.Event()

    def script(sequence: tuple[int, ...]) -> NDArray[np.float32]:
        if sequence[0] == 9 and ended.is_set():
            raise RuntimeError("a bug")
        if sequence[0] == 4 and len(sequence) == 3:
            ended.set()
        return hash_script(sequence)

    with running(2, script=script, max_step_seconds=5e-7) as rig:
        rig.gate.hold()
        ending = rig.submit([4], params=greedy(3))  # its last token is chosen in the turn of the error
        dying = rig.submit([9] * 500, params=greedy(3, prefill_chunk=16))
        rig.gate.wait()
        rig.gate.open()
        assert [type(reason) for reason in rig.inbox.reasons(dying)] == [EngineDeadError]
        assert rig.inbox.reasons(ending) == ["length"]
        assert rig.inbox.pieces(ending) == alone(ending.job)


def test_drain_waits_for_those_that_are_there_and_refuses_new_ones() -> None:
    with running(1) as rig:
        rig.gate.hold()
        tickets = [rig.submit([1]), rig.submit([2], params=sampled(4)), rig.submit([3])]
        rig.gate.wait()
        started_at = time.monotonic()
        assert not rig.engine.drain(0.05)
        assert time.monotonic() - started_at < PATIENCE_SECONDS / 2
        assert rig.engine.snapshot().is_draining
        for refused in (lambda: rig.submit([4]), rig.engine.check_admission):
            with pytest.raises(DrainingError):
                refused()
        threading.Timer(0.05, rig.gate.open).start()
        assert rig.engine.drain(PATIENCE_SECONDS)
        rig.check(*tickets)
        rig.check_is_empty()


def test_drain_of_an_idle_engine_ends_at_once() -> None:
    with running() as rig:
        assert rig.engine.drain(0)


@pytest.mark.parametrize("kind", KINDS)
def test_stop_cancels_every_job_and_ends_the_thread(kind: Any) -> None:
    with running(1, kind) as rig:
        rig.gate.hold()
        tickets = [rig.submit([1], params=greedy(500)), rig.submit([2], [3], params=sampled(4))]
        rig.gate.pass_steps(3)
        stopping = threading.Thread(target=rig.engine.stop)
        stopping.start()
        while not tickets[-1].cancel.is_cancelled or not tickets[0].cancel.is_cancelled:
            time.sleep(0.001)
        rig.gate.open()
        stopping.join(PATIENCE_SECONDS)
        assert not stopping.is_alive()
        assert [rig.inbox.reasons(ticket) for ticket in tickets] == [["cancelled"], ["cancelled", "cancelled"]]
        state = rig.engine.snapshot()
        assert (state.is_alive, state.is_draining, state.free_slots) == (False, True, 1)
        with pytest.raises(DrainingError):
            rig.submit([4])
        rig.engine.stop()


def test_job_that_does_not_fit_the_model_or_the_slots_is_refused() -> None:
    with running(2, context_length=64) as rig:
        refused = {
            "3 choices of a prompt were asked for, the server has 2 slots": job_of([1], params=sampled(3, n=3)),
            "no prompt was given": job_of(),
            "the prompt is empty": job_of([]),
            "outside the vocabulary": job_of([1, VOCAB_SIZE]),
            "the prompt has 64 tokens": job_of([1] * 64),
            "stop_ids holds id 30": job_of([1], params=greedy(3, stop_ids=(30,))),
        }
        for message, job in refused.items():
            with pytest.raises(InvalidInputError, match=message):
                rig.engine.submit(job)
        with pytest.raises(ContextLengthError):
            rig.submit([1] * 64)
        rig.check_is_empty()
        assert rig.inbox.calls == []


def test_beam_search_is_refused() -> None:
    with running() as rig, pytest.raises(InvalidInputError, match="beam"):
        rig.submit([1], params=GenerationParams(max_new_tokens=3, num_beams=2))


def test_snapshot_tells_what_the_engine_does() -> None:
    with running(2, prefix_bytes=500, bytes_per_token=2) as rig:
        state = rig.engine.snapshot()
        assert (state.running, state.waiting, state.slots, state.free_slots) == (0, 0, 2, 2)
        assert (state.is_alive, state.is_draining, state.drafted) == (True, False, 0)
        prompt = list(range(1, 21))
        rig.check(rig.submit(prompt, owner="a"))
        rig.check(rig.submit([*prompt, 3], owner="a"), rig.submit([*prompt, 4], owner="b"))
        state = rig.engine.snapshot()
        assert (state.prefix_queried, state.prefix_hits) == (20 + 21 + 21, 20)
        assert state.prefix_bytes == 2 * (21 + 21)
        assert 0 <= state.seconds_since_beat < PATIENCE_SECONDS


def test_beat_stops_while_a_step_hangs() -> None:
    with running(1) as rig:
        rig.gate.hold()
        ticket = rig.submit([1])
        rig.gate.wait()
        time.sleep(0.05)
        assert rig.engine.snapshot().seconds_since_beat >= 0.05
        rig.gate.open()
        rig.check(ticket)


def test_engine_that_was_not_started_is_not_alive() -> None:
    engine = Engine(model_of(runtime_of()), EngineSettings(slots=1), Inbox())
    assert not engine.snapshot().is_alive
    engine.stop()


def test_settings_outside_their_bounds_are_refused() -> None:
    good = EngineSettings(slots=1)
    for name, value in (
        ("slots", 0),
        ("max_queued", 0),
        ("max_queued_tokens", 0),
        ("max_step_seconds", 0.0),
        ("max_step_seconds", 61.0),
        ("prefix_bytes", -1),
    ):
        with pytest.raises(InvalidInputError, match=f"{name} must be"):
            replace(good, **{name: value})  # type: ignore[arg-type]


def test_full_queue_says_when_to_come_again() -> None:
    error = QueueFullError("full", retry_after=2.5)
    assert (str(error), error.retry_after) == ("full", 2.5)
    assert isinstance(error, CodegenEdgeError)


@pytest.mark.parametrize("kind", KINDS)
def test_threads_that_submit_and_cancel_at_random_change_no_token(kind: Any) -> None:
    tickets = []
    lock = threading.Lock()
    with running(3, kind, prefix_bytes=300, max_queued=200) as rig:

        def submit(seed: int) -> None:
            rng = random.Random(seed)
            for _ in range(12):
                prompts = [[rng.randint(1, 3)] * rng.randint(1, 40) for _ in range(rng.randint(1, 3))]
                params = sampled(rng.randint(1, 6), n=rng.randint(1, 3))
                ticket = rig.submit(*prompts, params=params, prompt_logprobs=rng.choice([None, None, 0]))
                with lock:
                    tickets.append(ticket)
                if rng.random() < 0.3:
                    time.sleep(rng.random() * 0.003)
                    rig.engine.cancel(ticket)
                rig.engine.snapshot()

        threads = [threading.Thread(target=submit, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
        for ticket in tickets:
            rig.inbox.reasons(ticket)
            if not ticket.cancel.is_cancelled:
                rig.check(ticket)
        rig.check_is_empty()
        assert rig.engine.snapshot().is_draining
