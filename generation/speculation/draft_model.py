"""Drafts by a smaller model."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from statistics import median

import numpy as np

from codegen_edge.errors import CancelledError, NumericsError
from codegen_edge.generation.sampling import TokenChooser
from codegen_edge.generation.speculation.drafter import common_length
from codegen_edge.runtimes import check_logits
from codegen_edge.runtimes.runtime import KVCache, Runtime

_CHUNK = 256  # tokens that a draft model reads in a step
_TIMINGS = 7  # of which the median counts: machines are noisy


class DraftModel:
    """Drafts by a smaller model with the same tokenizer. Keeps a cache of its own in step with the row.

    Args:
        runtime: of the smaller model.
    """

    is_free = False

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._cache: KVCache | None = None
        self._cached: list[int] = []
        self._is_interrupted = False
        self._step_seconds: deque[float] = deque(maxlen=_TIMINGS)  # of steps of one token

    @property
    def draft_seconds(self) -> float:
        """Median of the last steps of one token."""
        return median(self._step_seconds) if self._step_seconds else 0.0

    def interrupt(self) -> None:
        """Stop the step in flight."""
        self._is_interrupted = True
        if self._cache is not None:
            self._cache.interrupt()

    def draft(self, ids: Sequence[int], count: int, chooser: TokenChooser) -> list[int]:
        """What the smaller model's logits make of the same choice, random numbers included."""
        config = self._runtime.config
        count = min(count, config.context_length - len(ids))
        if count < 1:
            return []
        if self._is_interrupted:
            # Of an earlier generation, which ended before its next draft. It may still be pending on the cache, where
            # it would stop this one.
            self._forget()
        if self._cache is None:
            self._cache = self._runtime.new_cache(1, config.context_length)
        common = common_length(self._cached, ids[:-1])
        self._cache.rewind(0, common)
        self._cached = list(ids[:common])
        try:
            return self._drafted(ids, list(ids[common:]), count, chooser)
        except CancelledError:
            self._forget()
            raise

    def _forget(self) -> None:
        self._cache, self._cached, self._is_interrupted = None, [], False

    def _drafted(self, ids: Sequence[int], new: list[int], count: int, chooser: TokenChooser) -> list[int]:
        assert self._cache is not None
        drafted: list[int] = []
        while True:
            # A long text that it has not read yet comes one chunk per step, so that deadlines and cancellation hold.
            part, unread = new[:_CHUNK], new[_CHUNK:]
            started_at = time.perf_counter()
            fed = np.array([part], np.int64)
            logits = check_logits(self._runtime, self._runtime.step(fed, self._cache), fed)
            if len(part) == 1:
                self._step_seconds.append(time.perf_counter() - started_at)
            self._cached += part
            if np.isnan(logits).any():
                raise NumericsError("the logits of the draft model are NaN: its checkpoint or its bundle is broken")
            if unread:
                return []
            token_id = chooser.draft(logits[0], [*ids, *drafted])
            if token_id is not None:
                drafted.append(token_id)
            if token_id is None or len(drafted) == count:
                return drafted
            new = [token_id]
