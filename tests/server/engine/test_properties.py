"""Any order of submitting, cancelling, computing and failing leaves all slots free and ends every choice once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_edge.errors import BackendError
from codegen_edge.server.engine import EngineSettings, QueueFullError, Ticket
from codegen_edge.server.engine.queue import JobQueue
from codegen_edge.server.engine.scheduler import Scheduler
from tests.server.engine.fakes import KINDS, Inbox, alone, job_of, model_of, runtime_of, sampled

SLOTS = 3
OPERATION = st.one_of(
    st.tuples(
        st.just("submit"),
        st.lists(st.tuples(st.integers(1, 3), st.integers(1, 40)), min_size=1, max_size=3),
        st.integers(1, SLOTS),
        st.sampled_from(["generate", "score", "both"]),
    ),
    st.tuples(st.just("cancel"), st.integers(0, 9)),
    st.tuples(st.just("turn"), st.integers(1, 5)),
    st.tuples(st.just("fail")),
)


class Bench:
    """A scheduler without a thread."""

    def __init__(self, kind: Any) -> None:
        self.error: Exception | None = None
        runtime = runtime_of(kind, before_step=self._before_step)
        settings = EngineSettings(
            slots=SLOTS, max_queued=4, max_queued_tokens=150, max_step_seconds=5e-7, prefix_bytes=60
        )
        self.queue = JobQueue(settings)
        self.scheduler = Scheduler(model_of(runtime), settings, self.queue)
        self.inbox = Inbox()
        self.tickets: list[Ticket] = []
        self.num_failures = 0

    def _before_step(self, number: int) -> None:
        error, self.error = self.error, None
        if error is not None:
            self.num_failures += 1
            raise error

    def submit(self, prompts: Sequence[tuple[int, int]], num_samples: int, mode: str) -> None:
        job = job_of(
            *([token_id] * length for token_id, length in prompts),
            params=sampled(4, n=num_samples),
            prompt_logprobs=None if mode == "generate" else 1,
            is_score_only=mode == "score",
        )
        try:
            ticket, older = self.queue.submit(job)
        except QueueFullError:
            return
        assert older == []
        self.tickets.append(ticket)

    def turn(self) -> None:
        events = self.scheduler.turn()
        if events:
            self.inbox(events)
        assert 0 <= self.scheduler.free_slots <= SLOTS
        assert self.scheduler.prefixes.size_bytes <= 60

    def check(self, ticket: Ticket) -> None:
        """Each choice ended once, and those that nothing stopped got what they get alone."""
        endings = self.inbox.endings(ticket)
        assert all(len(reasons) == 1 for reasons in endings.values()), endings
        assert ticket.is_finished
        whole = {} if ticket.job.is_score_only else alone(ticket.job)
        for choice, pieces in self.inbox.pieces(ticket).items():
            if endings[choice] == ["length"]:
                assert pieces == whole[choice]
            num_tokens = sum(piece.token_id is not None for piece in pieces)
            assert pieces[:num_tokens] == whole[choice][:num_tokens]
        if not self.num_failures and not ticket.cancel.is_cancelled:
            assert set(self.inbox.pieces(ticket)) == set(whole)
            num_scored = 0 if ticket.job.prompt_logprobs is None else len(ticket.job.prompts)
            assert len(self.inbox.scored(ticket)) == num_scored

    def apply(self, verb: str, *arguments: Any) -> None:
        if verb == "submit":
            self.submit(*arguments)
        elif verb == "cancel" and arguments[0] < len(self.tickets):
            self.tickets[arguments[0]].cancel.cancel()
        elif verb == "turn":
            for _ in range(arguments[0]):
                self.turn()
        elif verb == "fail":
            self.error = BackendError("once")


@pytest.mark.parametrize("kind", KINDS)
@given(operations=st.lists(OPERATION, max_size=14))
def test_any_order_of_verbs_ends_every_choice_once(kind: Any, operations: list[tuple[Any, ...]]) -> None:
    bench = Bench(kind)
    for operation in operations:
        bench.apply(*operation)
    for _ in range(1000):
        if not (len(bench.queue) or bench.scheduler.is_busy):
            break
        bench.turn()
    assert len(bench.queue) == len(bench.queue.tickets) == 0
    assert not bench.scheduler.is_busy
    assert bench.scheduler.free_slots == SLOTS
    for ticket in bench.tickets:
        bench.check(ticket)
