"""Speculation: several tokens are guessed, one step computes the logits after all of them, and the row's own choice
decides how many of the guesses stand.

The row chooses after every guess exactly as it would have without one: from the same logits, with the random number
that belongs to that step. A guess stands where it is that choice. So no token ever changes, greedy or sampled, and the
distribution is exact without a rule of acceptance; a guess only saves a step.
(Y. Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", 2023, accept by a ratio of
probabilities instead, which needs other random numbers than plain sampling.)
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import Protocol

import numpy as np

from codegen_edge.errors import CancelledError, InvalidInputError, NumericsError
from codegen_edge.generation.sampling import TokenChooser
from codegen_edge.runtimes.runtime import KVCache, Runtime

MOST_DRAFTED = 15  # a step of 16 tokens

_FOLLOWED_TOKENS = 20  # behind the last lookup: a step of guesses that stood, and a few
_REPLACED_TOKENS = 2  # of those; where more differ the run is lost

_MEMORY = 0.8  # share of an average that one more observation leaves
_FIRST_ACCEPTANCE = 0.5  # believed before anything was seen
_CHUNK = 256  # tokens that a draft model reads in a step
_TIMINGS = 7  # of which the median counts: machines are noisy
_PLAIN_FIRST = 3  # plain steps, to know what they cost
_COST_OF_A_GUESS = 0.2  # of a plain step, believed until it is measured
_PAYS_FROM = 1.05  # a draft must promise this much over a plain step; estimates are noisy
_FIRST_PAUSE, _LONGEST_PAUSE = 8, 256  # plain steps between two trials while drafts do not pay


class Drafter(Protocol):
    """Guesses tokens."""

    @property
    def is_free(self) -> bool:
        """Whether a guess costs next to nothing, so that it may be compared with what is chosen without being fed."""

    @property
    def guess_seconds(self) -> float:
        """What a guess costs, without what reading new text costs."""

    def interrupt(self) -> None:
        """Make a guess in flight raise CancelledError soon. Callable from any thread."""

    def draft(self, ids: Sequence[int], count: int, chooser: TokenChooser) -> list[int]:
        """Up to `count` guesses of what `chooser` will choose after `ids`."""


class PromptLookup:
    """Guesses that what followed the last tokens where they occurred before follows again.

    A. Saxena, "Prompt Lookup Decoding" (2023). Made for edits, where the answer repeats much of the prompt. A run that
    was followed and is lost goes on to be followed for a few tokens, in the same distance: an edit that puts one token
    in the place of another costs one plain step then, not as many as a lookup needs tokens.

    Args:
        longest: tokens that are looked up at most.
        shortest: and at least.
    """

    is_free = True
    guess_seconds = 0.0

    def __init__(self, *, longest: int = 4, shortest: int = 2) -> None:
        if not 1 <= shortest <= longest:
            raise InvalidInputError(f"a lookup needs 1 <= shortest <= longest, got {shortest} and {longest}")
        self._lengths = range(longest, shortest - 1, -1)
        self._seen: list[int] = []
        self._ends: dict[tuple[int, ...], int] = {}  # where each run of tokens ended last, its successor known
        self._followed: tuple[int, int] | None = None  # the last run: where it was found, and where it went on

    def interrupt(self) -> None:
        """Nothing here takes long."""

    def draft(self, ids: Sequence[int], count: int, chooser: TokenChooser) -> list[int]:
        """What followed the longest run of last tokens that occurred before."""
        self._learn(ids)
        for length in self._lengths:
            end = self._ends.get(tuple(ids[-length:])) if len(ids) > length else None
            if end is not None:
                self._followed = end, len(ids)
                return list(ids[end : end + count])
        if self._followed is None:
            return []
        end, start = self._followed
        came = len(ids) - start  # tokens since
        if came > _FOLLOWED_TOKENS:
            return []
        differing = sum(one != other for one, other in zip(ids[end : end + came], ids[start:], strict=True))
        return list(ids[end + came : end + came + count]) if differing <= _REPLACED_TOKENS else []

    def _learn(self, ids: Sequence[int]) -> None:
        if list(ids[: len(self._seen)]) != self._seen:  # another row, or a rewound one
            self._seen, self._ends, self._followed = [], {}, None
        for end in range(len(self._seen), len(ids)):
            # The run that ends before `end` has a successor now.
            for length in self._lengths:
                if end >= length:
                    self._ends[tuple(ids[end - length : end])] = end
        self._seen = list(ids)


class DraftModel:
    """Guesses by a smaller model with the same tokenizer. Keeps a cache of its own in step with the row.

    Args:
        runtime: of the smaller model.
    """

    is_free = False

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._cache: KVCache | None = None
        self._held: list[int] = []
        self._is_interrupted = False
        self._step_seconds: deque[float] = deque(maxlen=_TIMINGS)  # of steps of one token

    @property
    def guess_seconds(self) -> float:
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
            # Of an earlier generation, which ended before its next guess. It may still be pending on the cache, where
            # it would stop this one.
            self._forget()
        if self._cache is None:
            self._cache = self._runtime.new_cache(1, config.context_length)
        common = common_length(self._held, ids[:-1])
        self._cache.rewind(0, common)
        self._held = list(ids[:common])
        try:
            return self._guesses(ids, list(ids[common:]), count, chooser)
        except CancelledError:
            self._forget()
            raise

    def _forget(self) -> None:
        self._cache, self._held, self._is_interrupted = None, [], False

    def _guesses(self, ids: Sequence[int], new: list[int], count: int, chooser: TokenChooser) -> list[int]:
        assert self._cache is not None
        drafted: list[int] = []
        while True:
            # A long text that it has not read yet comes a chunk a step, so that deadlines and cancellation hold.
            part, unread = new[:_CHUNK], new[_CHUNK:]
            started_at = time.perf_counter()
            logits = self._runtime.step(np.array([part], np.int64), self._cache)
            if len(part) == 1:
                self._step_seconds.append(time.perf_counter() - started_at)
            self._held += part
            if np.isnan(logits).any():
                raise NumericsError("the logits of the draft model are NaN: its checkpoint or its bundle is broken")
            if unread:
                return []
            guess = chooser.guess(logits[0], [*ids, *drafted])
            if guess is not None:
                drafted.append(guess)
            if guess is None or len(drafted) == count:
                return drafted
            new = [guess]


class Speculator:
    """Decides how many tokens are guessed, by what guesses brought and cost so far, and rests where they do not pay.

    Args:
        drafter: makes the guesses.
        most_drafted: guesses for a step at most.
    """

    def __init__(self, drafter: Drafter, *, most_drafted: int = MOST_DRAFTED) -> None:
        if not 1 <= most_drafted <= 255:
            raise InvalidInputError(f"most_drafted must be in 1…255, got {most_drafted}")
        self._drafter = drafter
        self._most = most_drafted
        self._acceptance = _FIRST_ACCEPTANCE
        self._seconds: dict[int, deque[float]] = {}  # of the last steps, by the number of guesses in them
        self._pause, self._next_pause = 0, _FIRST_PAUSE
        self._shadow: list[int] = []  # a free guess that was not fed: compared with what comes
        self._shadow_start = 0
        self.num_drafted = 0
        self.num_accepted = 0
        self.num_steps = 0

    @property
    def acceptance(self) -> float:
        """Share of the guesses that stood; 0 before the first."""
        return self.num_accepted / self.num_drafted if self.num_drafted else 0.0

    def propose(self, ids: Sequence[int], most: int, chooser: TokenChooser) -> list[int]:
        """Guesses to feed after the last of `ids`; none where they would not pay."""
        self.num_steps += 1
        self._look_at_shadow(ids)
        count = min(self._count(), most)
        if self._drafter.is_free:
            guesses = self._drafter.draft(ids, min(self._most, most), chooser)
            if not count and not self._shadow:
                self._shadow, self._shadow_start = guesses[:4], len(ids)
            return guesses[:count]
        return self._drafter.draft(ids, count, chooser) if count else []

    def interrupt(self) -> None:
        """Make a guess in flight raise CancelledError soon."""
        self._drafter.interrupt()

    def took(self, num_drafted: int, seconds: float) -> None:
        """A step with this many guesses took so long."""
        self._seconds.setdefault(num_drafted, deque(maxlen=_TIMINGS)).append(seconds)

    def saw(self, num_drafted: int, num_accepted: int) -> None:
        """So many guesses stood."""
        self.num_drafted += num_drafted
        self.num_accepted += num_accepted
        self._observe(num_drafted, num_accepted)

    def _observe(self, num_drafted: int, num_accepted: int) -> None:
        # Guesses after the first wrong one say nothing.
        for place in range(min(num_accepted + 1, num_drafted)):
            stood = 1.0 if place < num_accepted else 0.0
            self._acceptance = self._acceptance * _MEMORY + stood * (1 - _MEMORY)

    def _look_at_shadow(self, ids: Sequence[int]) -> None:
        if not self._shadow or len(ids) < self._shadow_start + len(self._shadow):
            return
        come = ids[self._shadow_start : self._shadow_start + len(self._shadow)]
        self._observe(len(self._shadow), common_length(self._shadow, come))
        self._shadow = []

    def _count(self) -> int:
        """Guesses that promise the most tokens a second; 0 for a plain step."""
        if self._pause:
            self._pause -= 1
            return 0 if self._pause else 1  # only a trial can tell whether the text has changed
        if len(self._seconds.get(0, ())) < _PLAIN_FIRST:
            return 0
        medians = {count: median(seconds) for count, seconds in self._seconds.items()}
        plain = medians[0]
        best, best_rate = 0, _PAYS_FROM / plain
        draft_seconds = self._drafter.guess_seconds
        expected = 1.0  # tokens of the step
        for count in range(1, self._most + 1):
            expected += self._acceptance**count
            # Measured, or the nearest measured number below and a share of a plain step for each guess more.
            known = max(each for each in medians if each <= count)
            step_seconds = medians[known] + _COST_OF_A_GUESS * plain * (count - known)
            rate = expected / (step_seconds + count * draft_seconds)
            if rate > best_rate:
                best, best_rate = count, rate
        if best:
            self._next_pause = _FIRST_PAUSE
        elif not self._drafter.is_free:
            self._pause, self._next_pause = self._next_pause, min(2 * self._next_pause, _LONGEST_PAUSE)
        return best


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    length = min(len(first), len(second))
    different = np.flatnonzero(np.asarray(first[:length]) != np.asarray(second[:length]))
    return int(different[0]) if len(different) else length
