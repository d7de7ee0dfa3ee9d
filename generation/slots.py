"""Rows in a fixed number of slots, for a server: prompts are read beside rows that decode, without stopping them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from codegen_edge.errors import CancelledError, InvalidInputError
from codegen_edge.generation.batch import OnRowError, RunningBatch
from codegen_edge.generation.cancel import CancelToken
from codegen_edge.generation.params import FinishReason
from codegen_edge.generation.prefill import Prefill, PromptGroup, step_unless_cancelled
from codegen_edge.generation.request import Request
from codegen_edge.generation.row import Row, TokenEvent, ended_event
from codegen_edge.generation.speculation import Speculator
from codegen_edge.runtimes.runtime import KVCache, Runtime

OnRead = Callable[[int, KVCache, int], None]
"""Called when a prompt was read: the number of its first row, and where its keys and values are: a cache and a row."""

_LEAST_SLICE = 8  # tokens of prompts in a step, at least: a waiting prompt always gets on
_SLOWED = 2.0  # a step that takes a slice along may take so many times as long as one without
_MEMORY = 0.7  # share of an average that one more observation leaves


class SlotBatch(Protocol):
    """What a server's scheduler needs of a batch."""

    @property
    def rows(self) -> list[int]:
        """Numbers of the rows that go on."""

    @property
    def free_slots(self) -> int | None:
        """Rows that may be admitted now."""

    def admit(
        self,
        request: Request,
        *,
        cache: KVCache | None = None,
        first_sample: int = 0,
        cancel: CancelToken | None = None,
    ) -> list[int]:
        """Take a request of one prompt; `step` reads it.

        Args:
            request: its `params.n` rows share the prefill.
            cache: of one row, that holds the beginning of the prompt, and less than all of it. It is used up.
            first_sample: which of the prompt's samples the first row is.
            cancel: ends these rows alone.

        Returns:
            The numbers of the rows.

        Raises:
            InvalidInputError: no free slot, or several prompts.
            ContextLengthError: the prompt is longer than a row may be.
        """

    def step(self, seconds: float = 0.1) -> Iterator[TokenEvent]:
        """Give every row that decodes its next token, and read on at prompts, the oldest first.

        Args:
            seconds: about how long the step may take where there are prompts to read.

        Raises:
            CancelledError, BackendError: the batch is not to be used further.
        """

    def finish(self, number: int) -> None:
        """End a row."""


def slot_batch(
    runtime: Runtime,
    *,
    slots: int,
    num_allowed_ids: int | None = None,
    capacity: int | None = None,
    speculator: Speculator | None = None,
    on_row_error: OnRowError | None = None,
    on_read: OnRead | None = None,
) -> SlotBatch:
    """A batch of `slots` rows: with prompts in the same run as rows that decode where the runtime can do that."""
    make = RaggedBatch if getattr(runtime, "runs_ragged", False) else SlicedBatch
    return make(
        runtime,
        slots=slots,
        num_allowed_ids=num_allowed_ids,
        capacity=capacity,
        speculator=speculator,
        on_row_error=on_row_error,
        on_read=on_read,
    )


@dataclass(slots=True)
class StepTimes:
    """What steps cost, from those so far: one without prompts, and a prompt's token in one.

    Attributes:
        plain: seconds of a step of the rows that decode; None before the first.
        per_token: seconds that a prompt's token adds; None before the first slice.
    """

    plain: float | None = None
    per_token: float | None = None

    def record(self, num_decoding: int, num_read: int, seconds: float) -> None:
        """A step of so many rows that decode and so many tokens of prompts took so long."""
        if not num_read:
            self.plain = _average(self.plain, seconds)
        else:
            base = self.plain if num_decoding and self.plain is not None else 0.0
            self.per_token = _average(self.per_token, max(seconds - base, 1e-6) / num_read)

    def slice(self, num_decoding: int, seconds: float, most: int) -> int:
        """Tokens of prompts for a step of about `seconds`; with rows that decode, which it may slow down so far."""
        if self.per_token is None:
            return min(_LEAST_SLICE, most)
        room = seconds
        if num_decoding and self.plain is not None:
            room = min(seconds, _SLOWED * self.plain) - self.plain
        return max(min(_LEAST_SLICE, most), min(most, int(room / self.per_token)))


def _average(known: float | None, latest: float) -> float:
    return latest if known is None else known * _MEMORY + latest * (1 - _MEMORY)


@dataclass(slots=True, eq=False)
class _Reading:
    """A prompt that is being read into its slot."""

    row: Row
    request: Request
    num_read: int
    first_sample: int

    @property
    def num_unread(self) -> int:
        return self.row.prompt_length - self.num_read

    @property
    def numbers(self) -> range:
        """Of its rows; only the first one is in the batch."""
        return range(self.row.number, self.row.number + self.request.params.n)

    def end_reason(self) -> FinishReason | None:
        """Why it is not to be read on."""
        if self.row.cancel is not None and self.row.cancel.is_cancelled:
            return "cancelled"
        limit = self.request.params.max_seconds
        return "deadline" if limit is not None and time.monotonic() >= self.row.started_at + limit else None


class RaggedBatch(RunningBatch):
    """A batch whose steps are one run each: the rows that decode, and slices of the prompts that are read.

    A prompt is read straight into its slot. For runtimes that run rows of any lengths together.
    """

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
        cache: KVCache | None = None,
        first_sample: int = 0,
        cancel: CancelToken | None = None,
    ) -> list[int]:
        """Take a request of one prompt; see `SlotBatch`."""
        _require_one_prompt(request)
        # The base class checks, and counts the rows.
        prefill = self.begin(request, cache=cache, first_sample=first_sample, cancel=cancel)
        assert self._cache is not None
        self._drop_finished()
        self._cache.join(self._empty_row if cache is None else cache)
        row = self._row(
            request,
            0,
            prefill.first_row,
            sample=first_sample,
            started_at=prefill.started_at,
            logits=np.empty((0, self._runtime.config.vocab_size), np.float32),
            cancel=cancel,
        )
        self._rows.append(row)
        self._num_pending -= 1  # the others wait for the first one's prompt
        num_cached = 0 if cache is None else int(cache.lengths[0])
        self._reading[row.number] = _Reading(row, request, num_cached, first_sample)
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
        own = [row.cancel for row in self._rows if row.cancel is not None] if len(self._rows) == 1 else []
        try:
            logits = step_unless_cancelled(self._runtime, ids, self._cache, [*self._cancels, *own], counts=counts)
        except CancelledError:
            if any(cancel.is_cancelled for cancel in own):
                return  # the next step ends the row
            raise
        num_decoding = len(self._rows) - len(self._reading)
        self._times.record(num_decoding, int(counts.sum()) - num_decoding, time.perf_counter() - started_at)
        self._take_logits(counts, logits)

    def _counts(self) -> NDArray[np.int64]:
        """[B] tokens of each row: the next one of a row that decodes, a slice of a prompt, at least one of each."""
        num_decoding = len(self._rows) - len(self._reading)
        most = max(reading.request.params.prefill_chunk for reading in self._reading.values())
        left = self._times.slice(num_decoding, self._seconds, most)
        counts = dict.fromkeys((row.number for row in self._rows), 1)
        for number, reading in self._reading.items():
            counts[number] = min(reading.num_unread, max(1, left), reading.request.params.prefill_chunk)
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
            row.logits = logits[place : place + 1]

    def _share(self, reading: _Reading, place: int, logits: NDArray[np.float32]) -> None:
        """Give a prompt's other samples rows of their own, now that it is read."""
        assert self._cache is not None
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
                cancel=reading.row.cancel,
            )
            for number in others
        ]


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
        cache: KVCache | None = None,
        first_sample: int = 0,
        cancel: CancelToken | None = None,
    ) -> list[int]:
        """Take a request of one prompt; see `SlotBatch`."""
        _require_one_prompt(request)
        prefill = self.begin(request, cache=cache, first_sample=first_sample, cancel=cancel)
        self._waiting.append(prefill)
        return prefill.rows

    def step(self, seconds: float = 0.1) -> Iterator[TokenEvent]:
        """A run of the rows that decode, and one or more at the oldest prompt; see `SlotBatch`."""
        started_at = time.monotonic()
        yield from super().step()
        if not self._waiting:
            return
        prefill = self._waiting[0]
        if self.advance(prefill, seconds=max(0.0, seconds - (time.monotonic() - started_at))):
            self._waiting.remove(prefill)

    def finish(self, number: int) -> None:
        """End a row; of a prompt that is being read, all of its rows."""
        for prefill in [each for each in self._waiting if number in each.rows]:
            self._waiting.remove(prefill)
            self._num_pending -= prefill.request.num_rows
        super().finish(number)

    def _join(self, joining: Sequence[tuple[PromptGroup, list[Row]]]) -> None:
        for group, rows in joining:
            if self._on_read is not None and group.cache is not None:
                self._on_read(rows[0].number, group.cache, 0)
        super()._join(joining)


def _require_one_prompt(request: Request) -> None:
    if len(request.prompts) != 1:
        raise InvalidInputError(f"a slot batch takes one prompt at a time, got {len(request.prompts)}")
