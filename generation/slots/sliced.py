"""Prompts that are read in runs of their own, between those in which others decode."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from codegen_edge.errors import CancelledError
from codegen_edge.generation.batch import OnRowError, RunningBatch
from codegen_edge.generation.cancel import CancelToken
from codegen_edge.generation.prefill import Prefill, PromptGroup
from codegen_edge.generation.request import Request
from codegen_edge.generation.row import Row, TokenEvent, ended_event
from codegen_edge.generation.slots.protocol import OnRead, Prefix, require_one_prompt
from codegen_edge.generation.speculation import Speculator
from codegen_edge.runtimes.runtime import Runtime


class SlicedBatch(RunningBatch):
    """A batch that reads prompts in runs of their own, between those of the rows that decode."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        slots: int,
        num_allowed_ids: int | None = None,
        capacity: int | None = None,
        speculator: Speculator | None = None,
        on_row_error: OnRowError | None = None,
        on_read: OnRead | None = None,
    ) -> None:
        super().__init__(
            runtime,
            num_allowed_ids=num_allowed_ids,
            capacity=capacity,
            slots=slots,
            speculator=speculator,
            on_row_error=on_row_error,
        )
        self._on_read = on_read
        self._waiting: list[Prefill] = []

    @property
    def rows(self) -> list[int]:
        """Numbers of the rows that go on, those whose prompts are being read among them."""
        return super().rows + [number for prefill in self._waiting for number in prefill.rows]

    def admit(
        self,
        request: Request,
        *,
        prefix: Prefix | None = None,
        first_sample: int = 0,
        cancel: CancelToken | None = None,
    ) -> list[int]:
        """Take a request of one prompt; see `SlotBatch`."""
        require_one_prompt(request)
        cache = None
        if prefix is not None:
            cache = self._runtime.new_cache(1, self._capacity)
            cache.select([])
            cache.join(prefix.cache, [0])
            cache.rewind(0, prefix.length)
        prefill = self.begin(request, cache=cache, first_sample=first_sample, cancel=cancel)
        self._waiting.append(prefill)
        return prefill.rows

    def step(self, seconds: float = 0.1) -> Iterator[TokenEvent]:
        """A run of the rows that decode, and one or more at the oldest prompt; see `SlotBatch`."""
        started_at = time.monotonic()
        for prefill in [each for each in self._waiting if each.cancel is not None and each.cancel.is_cancelled]:
            self._forget(prefill)
            for number in prefill.rows:
                yield ended_event(number, 0, "cancelled", prefill.started_at)
        yield from super().step()
        if not self._waiting:
            return
        prefill = self._waiting[0]
        if self.advance(prefill, seconds=max(0.0, seconds - (time.monotonic() - started_at))):
            self._waiting.remove(prefill)

    def finish(self, number: int) -> None:
        """End a row; of a prompt that is being read, all of its rows."""
        for prefill in [each for each in self._waiting if number in each.rows]:
            self._forget(prefill)
        super().finish(number)

    def _forget(self, prefill: Prefill) -> None:
        self._waiting.remove(prefill)
        self._num_pending -= prefill.request.num_rows

    def _feed(self) -> None:
        try:
            super()._feed()
        except CancelledError:  # a request's own, which came when its run was over: the next step computes
            if any(cancel.is_cancelled for cancel in self._cancels):
                raise

    def _join(self, joining: Sequence[tuple[PromptGroup, list[Row]]]) -> None:
        for group, rows in joining:
            if self._on_read is not None and group.cache is not None:
                self._on_read(rows[0].number, group.cache, 0)
        super()._join(joining)
