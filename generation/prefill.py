"""Reading prompts: in chunks, between which other rows may decode, and which can be cancelled."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codegen_edge.errors import CancelledError
from codegen_edge.generation.cancel import CancelToken
from codegen_edge.generation.params import FinishReason, GenerationParams
from codegen_edge.generation.request import Request
from codegen_edge.runtimes import check_logits
from codegen_edge.runtimes.runtime import KVCache, Logits, Runtime, TokenIds

OnPrefill = Callable[[int, int], None]
"""Called with the prompt tokens that are read, and those to read."""

_CHUNK = 512  # tokens, for runtimes that name no number
_LEAST_CHUNK = 16  # tokens of a chunk under a time budget; a smaller one costs hardly less time
_PACE_MEMORY = 0.5  # share of the seconds per token that one more chunk leaves


@dataclass(slots=True)
class Pace:
    """What reading a token costs, from the chunks so far; shared by all prefills of a batch.

    Attributes:
        seconds_per_token: None before the first chunk.
    """

    seconds_per_token: float | None = None

    def record(self, num_tokens: int, seconds: float) -> None:
        """A chunk of this many tokens took so long."""
        latest = seconds / num_tokens
        known = self.seconds_per_token
        self.seconds_per_token = latest if known is None else known * _PACE_MEMORY + latest * (1 - _PACE_MEMORY)

    def chunk(self, seconds: float, num_rows: int, most: int) -> int:
        """Tokens of each of `num_rows` rows that fit into a time, at most `most`."""
        if self.seconds_per_token is None:
            return min(_LEAST_CHUNK, most)
        return max(min(_LEAST_CHUNK, most), min(most, int(seconds / self.seconds_per_token / num_rows)))


def prefill_chunk(runtime: Runtime, params: GenerationParams) -> int:
    """Most tokens of a prompt in one step."""
    if params.prefill_chunk is not None:
        return params.prefill_chunk
    return int(getattr(runtime, "prefill_chunk", _CHUNK))


class PromptGroup:
    """Prompts of one length, which are read together.

    Args:
        numbers: which prompts of the request they are.
        token_ids: [B, T] what is to be read.
        cache: it may hold the beginning already; None makes one at the first chunk.
    """

    def __init__(self, numbers: Sequence[int], token_ids: TokenIds, cache: KVCache | None) -> None:
        self.numbers = list(numbers)
        self.cache = cache
        self.logits: Logits | None = None
        self._token_ids = token_ids
        self._num_read = 0

    @property
    def is_begun(self) -> bool:
        """Whether a chunk was read."""
        return self._num_read > 0

    @property
    def is_read(self) -> bool:
        """Whether `logits` [B, V] are those after the whole prompts."""
        return self._num_read >= int(self._token_ids.shape[1])

    @property
    def num_tokens(self) -> int:
        """Tokens to read, of all rows."""
        return self._token_ids.size

    @property
    def num_read(self) -> int:
        """Those of them that are read."""
        return self._num_read * len(self._token_ids)

    def read(self, runtime: Runtime, capacity: int, chunk: int, cancels: Sequence[CancelToken]) -> int:
        """Read up to `chunk` more tokens of each row; return how many were read in all."""
        rows = len(self._token_ids)
        if self.cache is None:
            self.cache = runtime.new_cache(rows, capacity)
        part = self._token_ids[:, self._num_read : self._num_read + chunk]
        self.logits = step_unless_cancelled(runtime, part, self.cache, cancels)
        self._num_read += part.shape[1]
        return part.size


class Prefill:
    """A request whose prompts are being read; from `RunningBatch.begin`, advanced by `RunningBatch.advance`.

    Attributes:
        request: what is read.
        first_row: number of its first row; the others follow.
        first_sample: which of its prompt's samples that row is.
        cancel: of its rows, or None.
        started_at: of time.monotonic.
        ended: why the prompts that were not read to their end were not, by their number.
    """

    def __init__(
        self,
        request: Request,
        first_row: int,
        *,
        cache: KVCache | None = None,
        first_sample: int = 0,
        cancel: CancelToken | None = None,
        on_prefill: OnPrefill | None = None,
    ) -> None:
        self.request = request
        self.first_row = first_row
        self.first_sample = first_sample
        self.cancel = cancel
        self.started_at = time.monotonic()
        self.ended: dict[int, FinishReason] = {}
        self._on_prefill = on_prefill
        num_cached = 0 if cache is None else int(cache.lengths[0])
        by_length: dict[int, list[int]] = {}
        for number, prompt in enumerate(request.prompts):
            by_length.setdefault(len(prompt), []).append(number)
        self.groups = [
            PromptGroup(numbers, np.array([request.prompts[each][num_cached:] for each in numbers], np.int64), cache)
            for numbers in by_length.values()
        ]

    @property
    def rows(self) -> list[int]:
        """The numbers of its rows: those of the first prompt, then of the second, …"""
        return list(range(self.first_row, self.first_row + self.request.num_rows))

    @property
    def num_tokens(self) -> int:
        """Tokens to read."""
        return sum(group.num_tokens for group in self.groups)

    @property
    def num_read(self) -> int:
        """Those of them that are read."""
        return sum(group.num_read for group in self.groups)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to read."""
        return all(group.is_read or self._is_ended(group) for group in self.groups)

    @property
    def deadline(self) -> float | None:
        """When the request's time is over, of time.monotonic."""
        seconds = self.request.params.max_seconds
        return None if seconds is None else self.started_at + seconds

    def advance(
        self, runtime: Runtime, capacity: int, pace: Pace, *, seconds: float | None, cancel: CancelToken | None
    ) -> None:
        """Read on, for about `seconds` or to the end; at least one chunk.

        Raises:
            CancelledError: `cancel` was cancelled. A request that is cancelled by its own token ends without an error.
        """
        until = None if seconds is None else time.monotonic() + seconds
        for group in self.groups:
            while not group.is_read and not self._is_ended(group):
                self._read_chunk(group, runtime, capacity, pace, until=until, cancel=cancel)
                if until is not None and time.monotonic() >= until:
                    return

    def _read_chunk(
        self,
        group: PromptGroup,
        runtime: Runtime,
        capacity: int,
        pace: Pace,
        *,
        until: float | None,
        cancel: CancelToken | None,
    ) -> None:
        if self.cancel is not None and self.cancel.is_cancelled:
            self._end(group, "cancelled")
            return
        now = time.monotonic()
        if group.is_begun and self.deadline is not None and now >= self.deadline:
            self._end(group, "deadline")
            return
        most = prefill_chunk(runtime, self.request.params)
        chunk = most if until is None else pace.chunk(until - now, len(group.numbers), most)
        try:
            num_tokens = group.read(runtime, capacity, chunk, [each for each in (cancel, self.cancel) if each])
        except CancelledError:
            if self.cancel is None or not self.cancel.is_cancelled or (cancel is not None and cancel.is_cancelled):
                raise
            self._end(group, "cancelled")
            return
        pace.record(num_tokens, time.monotonic() - now)
        if self._on_prefill is not None:
            self._on_prefill(self.num_read, self.num_tokens)

    def _end(self, group: PromptGroup, reason: FinishReason) -> None:
        self.ended |= dict.fromkeys(group.numbers, reason)

    def _is_ended(self, group: PromptGroup) -> bool:
        return group.numbers[0] in self.ended


def step_unless_cancelled(
    runtime: Runtime,
    token_ids: TokenIds,
    cache: KVCache,
    cancels: Sequence[CancelToken],
    *,
    counts: NDArray[np.int64] | None = None,
    all_logits: bool = False,
) -> Logits:
    """`runtime.step`; raise CancelledError where one of the tokens is cancelled, before the step or within it.

    Whatever the runtime is, logits of another shape than was asked for are a BackendError.
    """
    if any(cancel.is_cancelled for cancel in cancels):
        raise CancelledError("the generation was cancelled")
    with ExitStack() as stack:
        for cancel in cancels:
            stack.enter_context(cancel.calling(cache.interrupt))
        logits = runtime.step(token_ids, cache, counts=counts, all_logits=all_logits)
    return check_logits(runtime, logits, token_ids, all_logits=all_logits)
