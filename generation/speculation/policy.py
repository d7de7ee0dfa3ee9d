"""How many tokens are drafted for a step."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from statistics import median

from codegen_edge.errors import InvalidInputError
from codegen_edge.generation.sampling import TokenChooser
from codegen_edge.generation.speculation.drafter import Drafter, common_length

MOST_DRAFTED = 15  # a step of 16 tokens

_MEMORY = 0.8  # share of an average that one more observation leaves
_FIRST_ACCEPTANCE = 0.5  # believed before anything was observed
_TIMINGS = 7  # of which the median counts: machines are noisy
_PLAIN_FIRST = 3  # plain steps, to know what they cost
_COST_OF_A_DRAFT = 0.2  # of a plain step, believed until it is measured
_PAYS_FROM = 1.05  # a draft must promise this much over a plain step; estimates are noisy
_FIRST_PAUSE, _LONGEST_PAUSE = 8, 256  # plain steps between two trials while drafts do not pay


class Speculator:
    """Decides how many tokens are drafted, by what drafts brought and cost so far, and rests where they do not pay.

    Args:
        drafter: makes the drafts.
        most_drafted: drafts for a step at most.
        num_free: drafts that cost a step of this runtime nothing; so many are always fed, of a drafter that is free.

    Raises:
        InvalidInputError: most_drafted is outside 1…255.
    """

    def __init__(self, drafter: Drafter, *, most_drafted: int = MOST_DRAFTED, num_free: int = 0) -> None:
        if not 1 <= most_drafted <= 255:
            raise InvalidInputError(f"most_drafted must be in 1…255, got {most_drafted}")
        self._num_free = num_free if drafter.is_free else 0
        self._drafter = drafter
        self._most = most_drafted
        self._acceptance = _FIRST_ACCEPTANCE
        self._seconds: dict[int, deque[float]] = {}  # of the last steps, by the number of drafts in them
        self._pause, self._next_pause = 0, _FIRST_PAUSE
        self._shadow: list[int] = []  # a free draft that was not fed: compared with what comes
        self._shadow_start = 0
        self.num_drafted = 0
        self.num_accepted = 0
        self.num_steps = 0

    @property
    def acceptance(self) -> float:
        """Share of the drafts that were accepted; 0 before the first."""
        return self.num_accepted / self.num_drafted if self.num_drafted else 0.0

    @property
    def is_free(self) -> bool:
        """Whether its drafts cost next to nothing."""
        return self._drafter.is_free

    def draft(self, ids: Sequence[int], most: int, chooser: TokenChooser) -> list[int]:
        """Drafts to feed after the last of `ids`; none where they would not pay."""
        self.num_steps += 1
        self._look_at_shadow(ids)
        count = min(max(self._count(), self._num_free), most)
        if self._drafter.is_free:
            drafts = self._drafter.draft(ids, min(self._most, most), chooser)
            if not count and not self._shadow:
                self._shadow, self._shadow_start = drafts[:4], len(ids)
            return drafts[:count]
        return self._drafter.draft(ids, count, chooser) if count else []

    def interrupt(self) -> None:
        """Make a draft in flight raise CancelledError soon."""
        self._drafter.interrupt()

    def record_step(self, num_drafted: int, seconds: float) -> None:
        """A step with this many drafts took so long."""
        self._seconds.setdefault(num_drafted, deque(maxlen=_TIMINGS)).append(seconds)

    def record_outcome(self, num_drafted: int, num_accepted: int) -> None:
        """So many drafts were accepted."""
        self.count(num_drafted, num_accepted)
        self._observe(num_drafted, num_accepted)

    def count(self, num_drafted: int, num_accepted: int) -> None:
        """Count drafts that were made beside this one, for rows that were not alone."""
        self.num_drafted += num_drafted
        self.num_accepted += num_accepted

    def _observe(self, num_drafted: int, num_accepted: int) -> None:
        # Drafts after the first wrong one say nothing.
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
        """Drafts that promise the most tokens per second; 0 for a plain step."""
        if self._pause:
            self._pause -= 1
            return 0 if self._pause else 1  # only a trial shows whether the text has changed
        if len(self._seconds.get(0, ())) < _PLAIN_FIRST:
            return 0
        medians = {count: median(seconds) for count, seconds in self._seconds.items()}
        plain = medians[0]
        best, best_rate = 0, _PAYS_FROM / plain
        draft_seconds = self._drafter.draft_seconds
        expected = 1.0  # tokens of the step
        for count in range(1, self._most + 1):
            expected += self._acceptance**count
            # Measured, or the nearest measured number below and a share of a plain step for each drafted token more.
            known = max(each for each in medians if each <= count)
            step_seconds = medians[known] + _COST_OF_A_DRAFT * plain * (count - known)
            rate = expected / (step_seconds + count * draft_seconds)
            if rate > best_rate:
                best, best_rate = count, rate
        if best:
            self._next_pause = _FIRST_PAUSE
        elif not self._drafter.is_free:
            self._pause, self._next_pause = self._next_pause, min(2 * self._next_pause, _LONGEST_PAUSE)
        return best
