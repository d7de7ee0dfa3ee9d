"""Prompts that are read in runs of their own, between those in which others decode."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from codegen_edge.errors import CancelledError
from codegen_edge.generation.batch import RunningBatch
from codegen_edge.generation.cancel import CancelToken
from codegen_edge.generation.prefill import Prefill
from codegen_edge.generation.request import Request
from codegen_edge.generation.row import TokenEvent, ended_event
from codegen_edge.generation.slots.protocol import Prefix, require_one_prompt
from codegen_edge.runtimes.runtime import Runtime


class SlicedBatch(RunningBatch):
    """A batch that reads prompts in runs of their own, between those of the rows that decode.

    Args:
        runtime: computes the logits.
        slots: rows at most.
        **options: of RunningBatch.
    """

    def __init__(self, runtime: Runtime, *, slots: int, **options: Any) -> None:
        super().__init__(runtime, slots=slots, **options)
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
