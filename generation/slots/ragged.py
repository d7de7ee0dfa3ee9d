"""Prompts that are read in the same run in which others decode."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codegen_edge.errors import CancelledError
from codegen_edge.generation.batch import RunningBatch
from codegen_edge.generation.cancel import CancelToken
from codegen_edge.generation.params import FinishReason
from codegen_edge.generation.prefill import prefill_chunk, step_unless_cancelled
from codegen_edge.generation.request import Request
from codegen_edge.generation.row import Row, TokenEvent, ended_event
from codegen_edge.generation.slots.protocol import Prefix, require_one_prompt
from codegen_edge.generation.slots.times import StepTimes
from codegen_edge.runtimes.runtime import Runtime


@dataclass(slots=True, eq=False)
class _Reading:
    """A prompt that is being read into its slot."""

    row: Row  # without its cancel token, so that nothing ends it but this prompt
    request: Request
    num_read: int
    first_sample: int
    cancel: CancelToken | None

    @property
    def num_unread(self) -> int:
        return self.row.prompt_length - self.num_read

    @property
    def numbers(self) -> range:
        """Of its rows; only the first one is in the batch."""
        return range(self.row.number, self.row.number + self.request.params.n)

    def end_reason(self) -> FinishReason | None:
        """Why it is not to be read on."""
        if self.cancel is not None and self.cancel.is_cancelled:
            return "cancelled"
        limit = self.request.params.max_seconds
        return "deadline" if limit is not None and time.monotonic() >= self.row.started_at + limit else None


class RaggedBatch(RunningBatch):
    """A batch whose steps are one run each: the rows that decode, and slices of the prompts that are read.

    A prompt is read straight into its slot. For runtimes that run rows of any lengths together.

    Args:
        runtime: computes the logits.
        slots: rows at most.
        **options: of RunningBatch.
    """

    def __init__(self, runtime: Runtime, *, slots: int, **options: Any) -> None:
        super().__init__(runtime, slots=slots, **options)
        self._reading: dict[int, _Reading] = {}  # by the number of its first row, the oldest first
        self._times = StepTimes()
        self._seconds = 0.0
        self._cache = runtime.new_cache(1, self._capacity)
        self._cache.reserve(slots)
        self._cache.select([])
        self._empty_row = runtime.new_cache(1, 1)

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
        # The base class checks, and counts the rows.
        prefill = self.begin(request, first_sample=first_sample, cancel=cancel)
        assert self._cache is not None
        self._drop_finished()
        self._cache.join(self._empty_row if prefix is None else prefix.cache, [0])
        num_cached = 0 if prefix is None else prefix.length
        self._cache.rewind(len(self._rows), num_cached)
        row = self._row(
            request,
            0,
            prefill.first_row,
            sample=first_sample,
            started_at=prefill.started_at,
            logits=np.empty((0, self._runtime.config.vocab_size), np.float32),
            cancel=None,
        )
        self._rows.append(row)
        self._num_pending -= 1  # the others wait for the first one's prompt
        self._reading[row.number] = _Reading(row, request, num_cached, first_sample, cancel)
        return prefill.rows

    def step(self, seconds: float = 0.1) -> Iterator[TokenEvent]:
        """One run; see `SlotBatch`."""
        self._seconds = seconds
        for reading in list(self._reading.values()):
            reason = reading.end_reason()
            if reason is not None:
                self._forget(reading)
                for number in reading.numbers:
                    yield ended_event(number, 0, reason, reading.row.started_at)
        yield from super().step()

    def finish(self, number: int) -> None:
        """End a row; of a prompt that is being read, all of its rows."""
        for reading in list(self._reading.values()):
            if number in reading.numbers:
                self._forget(reading)
        super().finish(number)

    def _forget(self, reading: _Reading) -> None:
        reading.row.is_finished = True
        self._num_pending -= reading.request.params.n - 1
        del self._reading[reading.row.number]

    def _feed(self) -> None:
        try:
            self._run()
        except CancelledError:  # the next step ends the request's rows, and computes what was stopped
            if any(cancel.is_cancelled for cancel in self._cancels):
                raise

    def _run(self) -> None:
        if not self._reading:
            started_at = time.perf_counter()
            super()._feed()
            if not any(row.draft for row in self._rows):
                self._times.record(len(self._rows), 0, time.perf_counter() - started_at)
            return
        assert self._cache is not None
        counts = self._counts()
        ids = np.zeros((len(self._rows), int(counts.max())), np.int64)
        for place, (row, count) in enumerate(zip(self._rows, counts, strict=True)):
            reading = self._reading.get(row.number)
            start = len(row.ids) - 1 if reading is None else reading.num_read
            ids[place, :count] = row.ids[start : start + count]
        started_at = time.perf_counter()
        # Where nobody else is in the run, it is stopped at once when its request is cancelled.
        own = [reading.cancel for reading in self._reading.values() if reading.cancel] if len(self._rows) == 1 else []
        logits = step_unless_cancelled(self._runtime, ids, self._cache, [*self._cancels, *own], counts=counts)
        num_decoding = len(self._rows) - len(self._reading)
        self._times.record(num_decoding, int(counts.sum()) - num_decoding, time.perf_counter() - started_at)
        self._take_logits(counts, logits)

    def _counts(self) -> NDArray[np.int64]:
        """[B] tokens of each row: the next one of a row that decodes, a slice of a prompt, at least one of each."""
        num_decoding = len(self._rows) - len(self._reading)
        most = {number: prefill_chunk(self._runtime, each.request.params) for number, each in self._reading.items()}
        left = self._times.slice(num_decoding, self._seconds, max(most.values()))
        counts = dict.fromkeys((row.number for row in self._rows), 1)
        for number, reading in self._reading.items():
            counts[number] = min(reading.num_unread, max(1, left), most[number])
            left -= counts[number]
        return np.array([counts[row.number] for row in self._rows], np.int64)

    def _take_logits(self, counts: NDArray[np.int64], logits: NDArray[np.float32]) -> None:
        for place, row in enumerate(list(self._rows)):
            reading = self._reading.get(row.number)
            if reading is not None:
                reading.num_read += int(counts[place])
                if reading.num_unread:
                    continue
                del self._reading[row.number]
                self._share(reading, place, logits[place : place + 1])
            row.logits, row.draft = logits[place : place + 1], []

    def _share(self, reading: _Reading, place: int, logits: NDArray[np.float32]) -> None:
        """Give a prompt's other samples rows of their own, now that it is read."""
        assert self._cache is not None
        reading.row.cancel = reading.cancel
        if self._on_read is not None:
            self._on_read(reading.row.number, self._cache, place)
        others = list(reading.numbers)[1:]
        if not others:
            return
        self._cache.select([*range(len(self._rows)), *(place for _ in others)])
        self._num_pending -= len(others)
        self._rows += [
            self._row(
                reading.request,
                0,
                number,
                sample=reading.first_sample + number - reading.row.number,
                started_at=reading.row.started_at,
                logits=logits,
                cancel=reading.cancel,
            )
            for number in others
        ]
