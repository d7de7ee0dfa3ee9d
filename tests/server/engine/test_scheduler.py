"""What jobs get: the tokens that they would get alone, whoever is beside them, and whatever fails beside them."""

from __future__ import annotations

from typing import Any

import pytest

from codegen_edge.errors import BackendError, NumericsError
from codegen_edge.generation import GenerationParams
from codegen_edge.runtimes.backends.scripted import script_of_tokens
from codegen_edge.server.engine import Job, Piece, Started
from tests.server.engine.fakes import KINDS, VOCAB_SIZE, alone, broken_after_seven, greedy, job_of, running, sampled

JOBS = {
    "greedy": job_of([5, 6, 7]),
    "seeded": job_of([5, 6, 7], params=sampled(9)),
    "until the end of text": job_of([4], params=GenerationParams(max_new_tokens=200, temperature=1.0, seed=3)),
    "three samples": job_of([8] * 20, params=sampled(7, n=3)),
    "prompts of all lengths": job_of([1, 2], [3] * 70, [9], [1, 2], [5] * 17, params=sampled(5)),
    "prompts and samples": job_of([1, 2], [3] * 40, [9], params=sampled(7, n=3)),
    "log probabilities": job_of([2, 2], [6], params=greedy(5, top_logprobs=3)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("job", JOBS.values(), ids=list(JOBS))
def test_job_gets_what_the_loop_gives_it_alone(kind: Any, job: Job) -> None:
    with running(kind=kind) as rig:
        ticket = rig.engine.submit(job)
        rig.check(ticket)
        assert isinstance(rig.inbox.events(ticket)[0], Started)
        assert sum(isinstance(event, Started) for event in rig.inbox.events(ticket)) == 1
        rig.check_is_empty()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_drafting", [False, True])
def test_job_gets_the_same_among_eight_and_from_kept_prefixes(kind: Any, is_drafting: bool) -> None:
    with running(8, kind, prefix_bytes=2000, is_drafting=is_drafting) as rig:
        rig.gate.hold()
        first = [rig.submit([*range(1, 21), number], params=sampled(4 + number)) for number in range(1, 9)]
        rig.gate.pass_steps(3)
        rig.gate.open()
        rig.check(*first)
        again = [rig.engine.submit(ticket.job) for ticket in first]
        rig.check(*again)
        assert all(ticket.num_cached == 20 for ticket in again)
        rig.check_is_empty()


def test_choices_are_numbered_through_all_prompts() -> None:
    with running() as rig:
        ticket = rig.submit([1], [2], params=sampled(3, n=2))
        rig.check(ticket)
        places = {
            (event.choice, event.event.row, event.event.sample)
            for event in rig.inbox.events(ticket)
            if isinstance(event, Piece)
        }
        assert places == {(0, 0, 0), (1, 0, 1), (2, 1, 0), (3, 1, 1)}


def test_drafts_change_no_token() -> None:
    script = script_of_tokens([1, 2, 3], VOCAB_SIZE, 12)
    with running(script=script, is_drafting=True) as rig:
        ticket = rig.submit([1, 2, 3] * 4, params=greedy(60))
        rig.inbox.wait_for_end(ticket)
        assert rig.inbox.pieces(ticket) == alone(ticket.job, script)
        state = rig.engine.snapshot()
        assert state.drafted >= state.accepted > 0


@pytest.mark.parametrize("kind", KINDS)
def test_step_is_delivered_in_one_call_from_the_engines_thread(kind: Any) -> None:
    with running(3, kind) as rig:
        rig.gate.hold()
        tickets = [rig.submit([number], params=greedy(40)) for number in (1, 2, 3)]
        while not all(map(rig.inbox.num_tokens, tickets)):
            rig.gate.pass_steps()
        for _ in range(3):
            before = len(rig.inbox.calls)
            rig.gate.pass_steps()
            (call,) = rig.inbox.calls[before:]
            assert len(call) == 3
            assert {ticket for ticket, _ in call} == set(tickets)
        rig.gate.open()
        rig.check(*tickets)
        assert rig.inbox.threads == {"codegen-edge-engine"}
        assert all(rig.inbox.calls)


@pytest.mark.parametrize("kind", KINDS)
def test_stop_string_ends_a_row_and_frees_its_slot(kind: Any) -> None:
    whole = "".join(event.text for event in alone(job_of([5, 6], params=greedy(60)))[0])
    stop = whole[9:12]
    with running(2, kind) as rig:
        rig.gate.hold()
        other = rig.submit([9], params=greedy(40))
        stopping = rig.submit([5, 6], params=greedy(60, stop=(stop,)))
        waiting = rig.submit([3], params=greedy(4))
        rig.gate.wait()
        rig.gate.open()
        rig.check(other, stopping, waiting)
        assert rig.inbox.reasons(stopping) == ["stop"]
        assert "".join(event.text for event in rig.inbox.pieces(stopping)[0]) == whole[: whole.index(stop)]
        assert waiting.started_at is not None
        assert other.finished_at is not None
        assert waiting.started_at < other.finished_at
        rig.check_is_empty()


@pytest.mark.parametrize("kind", KINDS)
def test_run_that_fails_ends_the_rows_that_have_slots_and_no_other_job(kind: Any) -> None:
    with running(3, kind, prefix_bytes=1000) as rig:
        rig.gate.hold()
        inside = [rig.submit([4], params=greedy(30)), rig.submit([5], params=sampled(30, n=2))]
        waiting = rig.submit([6], [7] * 30, params=sampled(4, n=2))
        while not all(map(rig.inbox.num_tokens, inside)):
            rig.gate.pass_steps()
        error = BackendError("the device is gone")
        rig.gate.fail(error)
        rig.gate.open()
        assert rig.inbox.reasons(inside[0]) == [error]
        assert rig.inbox.reasons(inside[1]) == [error, error]
        rig.check(waiting, rig.submit([8] * 40))
        assert rig.engine.snapshot().is_alive
        rig.check_is_empty()


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_that_waited_for_a_slot_go_on_when_those_of_the_same_job_failed(kind: Any) -> None:
    with running(1, kind) as rig:
        rig.gate.hold()
        ticket = rig.submit([4], [5], params=greedy(6))
        rig.gate.pass_steps(2)
        rig.gate.fail(BackendError("once"))
        rig.gate.open()
        failed, ended = rig.inbox.reasons(ticket)
        assert isinstance(failed, BackendError)
        assert ended == "length"
        assert rig.inbox.pieces(ticket)[1] == alone(ticket.job)[1]
        rig.check_is_empty()


@pytest.mark.parametrize("kind", KINDS)
def test_logits_that_are_not_finite_end_their_row_only(kind: Any) -> None:
    with running(8, kind, broken_after_seven) as rig:
        rig.gate.hold()
        mixed = rig.submit([7, 1], [3], params=sampled(8, n=2))
        other = rig.submit([5], params=greedy(12))
        rig.gate.wait()
        rig.gate.open()
        reasons = rig.inbox.reasons(mixed)
        assert [type(each) for each in reasons] == [NumericsError, NumericsError, str, str]
        unbroken = alone(job_of([3], params=mixed.job.params))
        pieces = rig.inbox.pieces(mixed)
        for sample in range(2):
            assert [piece.token_id for piece in pieces[2 + sample]] == [piece.token_id for piece in unbroken[sample]]
        rig.check(other, rig.submit([6]))
        rig.check_is_empty()


@pytest.mark.parametrize("kind", KINDS)
def test_ticket_keeps_the_times_and_the_counts(kind: Any) -> None:
    with running(kind=kind) as rig:
        ticket = rig.submit([1] * 30, [2], params=sampled(5, n=2))
        assert not ticket.is_finished
        rig.check(ticket)
        rig.check_is_empty()
        times = [ticket.queued_at, ticket.started_at, ticket.first_token_at, ticket.finished_at]
        known = [each for each in times if each is not None]
        assert known == sorted(times, key=lambda each: each or 0.0)
        assert (ticket.num_generated, ticket.num_open, ticket.is_finished) == (20, 0, True)


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_that_is_cut_is_looked_up_and_kept_as_it_was_cut(kind: Any) -> None:
    params = greedy(20, prompt_overflow="cut-left")
    prompt = [1 + place * place % 9 for place in range(100)]
    with running(kind=kind, context_length=64, prefix_bytes=10_000) as rig:
        for num_cached in (0, 43):
            ticket = rig.submit(prompt, params=params)
            assert rig.inbox.reasons(ticket) == ["length"]
            assert rig.inbox.pieces(ticket) == alone(job_of(prompt, params=params), context_length=64)
            assert ticket.num_cached == num_cached
        rig.check_is_empty()
