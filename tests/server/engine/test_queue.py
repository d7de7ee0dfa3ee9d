"""Jobs that wait: first come, first served, and no more of them than were allowed."""

from __future__ import annotations

from typing import Any

import pytest

from codegen_edge.server.engine import QueueFullError, Started, Ticket
from tests.server.engine.fakes import KINDS, Rig, greedy, running, sampled


def order_of_starts(rig: Rig) -> list[Ticket]:
    return [ticket for call in rig.inbox.calls for ticket, event in call if isinstance(event, Started)]


@pytest.mark.parametrize("kind", KINDS)
def test_jobs_start_in_the_order_in_which_they_came(kind: Any) -> None:
    with running(2, kind) as rig:
        rig.gate.hold()
        tickets = [rig.submit([number], params=greedy(12 - number)) for number in range(1, 11)]
        rig.gate.wait()
        rig.gate.open()
        rig.check(*tickets)
        assert order_of_starts(rig) == tickets
        rig.check_is_empty()


def test_job_that_needs_more_slots_is_not_overtaken() -> None:
    with running(3) as rig:
        rig.gate.hold()
        running_one = rig.submit([1], params=greedy(30))
        rig.gate.wait()
        large = rig.submit([2], params=sampled(5, n=3))
        small = rig.submit([3], params=greedy(3))
        rig.gate.pass_steps(10)
        assert rig.engine.snapshot().free_slots == 2
        assert order_of_starts(rig) == [running_one]
        rig.gate.open()
        rig.check(running_one, large, small)
        assert order_of_starts(rig) == [running_one, large, small]


@pytest.mark.parametrize("kind", KINDS)
def test_job_of_more_prompts_than_slots_ends(kind: Any) -> None:
    with running(3, kind) as rig:
        tickets = [rig.submit(*([number] * number for number in range(1, 9)), params=sampled(4, n=2)) for _ in range(3)]
        rig.check(*tickets)
        rig.check_is_empty()


def test_prompt_that_is_scored_keeps_its_place() -> None:
    with running(1) as rig:
        rig.gate.hold()
        tickets = [
            rig.submit([1] * 100, params=greedy(4), prompt_logprobs=0),
            rig.submit([2], [3], params=greedy(4), prompt_logprobs=0),
            rig.submit([4], params=greedy(4)),
        ]
        rig.gate.wait()
        rig.gate.open()
        rig.check(*tickets)
        order = [
            (ticket.number, choice)
            for call in rig.inbox.calls
            for ticket, event in call
            if (choice := getattr(event, "choice", None)) is not None
        ]
        assert list(dict.fromkeys(order)) == [
            (tickets[0].number, 0),
            (tickets[1].number, 0),
            (tickets[1].number, 1),
            (tickets[2].number, 0),
        ]


def test_queue_is_bounded_in_jobs() -> None:
    with running(1, max_queued=2) as rig:
        rig.gate.hold()
        first = rig.submit([1])
        rig.gate.wait()
        waiting = [rig.submit([2], [3]), rig.submit([4])]
        state = rig.engine.snapshot()
        assert (state.running, state.waiting, state.waiting_tokens, state.free_slots) == (1, 2, 3, 0)
        with pytest.raises(QueueFullError, match="2 requests with 3 tokens are waiting") as refused:
            rig.submit([5])
        assert refused.value.retry_after >= 1
        with pytest.raises(QueueFullError):
            rig.engine.check_admission()
        rig.gate.open()
        rig.check(first, *waiting)
        rig.engine.check_admission()
        rig.check(rig.submit([5]))
        rig.check_is_empty()


def test_queue_is_bounded_in_tokens() -> None:
    with running(1, max_queued_tokens=50) as rig:
        rig.gate.hold()
        first = rig.submit([1])
        rig.gate.wait()
        waiting = [rig.submit([2] * 40)]
        rig.engine.check_admission()
        with pytest.raises(QueueFullError) as refused:
            rig.submit([3] * 11)
        assert refused.value.retry_after >= 1
        waiting.append(rig.submit([3] * 10))
        rig.gate.open()
        rig.check(first, *waiting)
        rig.check(rig.submit([3] * 11))


def test_job_that_is_larger_than_the_queue_is_taken_where_nobody_waits() -> None:
    with running(1, max_queued_tokens=50) as rig:
        rig.gate.hold()
        first = rig.submit([1])
        rig.gate.wait()
        large = rig.submit([2] * 200)
        with pytest.raises(QueueFullError):
            rig.submit([3])
        rig.gate.open()
        rig.check(first, large)


def test_jobs_that_wait_to_be_scored_count_as_waiting() -> None:
    with running(4, max_queued=2) as rig:
        rig.gate.hold()
        tickets = [rig.submit([1, 2] * 100, prompt_logprobs=0, is_score_only=True)]
        rig.gate.wait()
        tickets += [rig.submit([2, 3] * 20, prompt_logprobs=0, is_score_only=True) for _ in range(2)]
        rig.gate.pass_steps(2)
        assert rig.engine.snapshot().waiting == 2
        with pytest.raises(QueueFullError):
            rig.submit([3, 4], prompt_logprobs=0, is_score_only=True)
        rig.gate.open()
        assert [rig.inbox.reasons(ticket) for ticket in tickets] == [["scored"]] * 3


def test_cancelled_job_makes_room_in_the_queue() -> None:
    with running(1, max_queued=1) as rig:
        rig.gate.hold()
        first = rig.submit([1], params=greedy(20))
        rig.gate.wait()
        victim = rig.submit([2])
        rig.engine.cancel(victim)
        rig.gate.pass_steps(2)
        assert rig.inbox.reasons(victim) == ["cancelled"]
        later = rig.submit([3])
        rig.gate.open()
        rig.check(first, later)


def test_newer_job_of_a_client_replaces_its_own_where_the_queue_is_full() -> None:
    with running(1, max_queued=1) as rig:
        rig.gate.hold()
        first = rig.submit([1], params=greedy(20))
        rig.gate.wait()
        older = rig.submit([2], client="editor")
        with pytest.raises(QueueFullError):
            rig.submit([3], client="another")
        rig.engine.check_admission("editor")
        newer = rig.submit([4], client="editor")
        rig.gate.open()
        assert rig.inbox.reasons(older) == ["cancelled"]
        rig.check(first, newer)
