"""Drafts for several rows that decode in one step: which rows get some, and how many."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from codegen_edge.generation.sampling import TokenChooser
from codegen_edge.generation.speculation.lookup import PromptLookup

_MOST_DRAFTED = 7  # of a row in a step
_MEMORY = 0.8  # share of an average that one more observation leaves
_FIRST_ACCEPTANCE = 0.3  # of a row, before anything was observed
_TIMINGS = 7  # of which the median counts: machines are noisy
_PLAIN_FIRST = 3  # plain steps of so many rows, to know what they cost
_COST_OF_A_DRAFT = 0.1  # of a plain step, believed until it is measured
_PAYS_FROM = 1.1  # a draft must promise this much over what it costs; estimates are noisy
_DRAFTED_FIRST = 3  # steps with drafts, to know what a draft costs
_PLAIN_EVERY = 64  # steps with drafts, after which a plain one shows what it costs now
_TRIAL_EVERY = 16  # plain steps, after which drafts are tried as if they cost what was believed at first


@dataclass(slots=True)
class _RowState:
    """What is known of a row.

    Attributes:
        lookup: makes its drafts.
        acceptance: the share of its drafts that stand.
        shadow: a draft that was not fed: it is compared with what comes after `shadow_start` ids.
    """

    lookup: PromptLookup = field(default_factory=PromptLookup)
    acceptance: float = _FIRST_ACCEPTANCE
    shadow: int | None = None
    shadow_start: int = 0

    def observe(self, stood: bool) -> None:
        self.acceptance = self.acceptance * _MEMORY + (1 - _MEMORY) * stood


@dataclass(slots=True)
class _Costs:
    """What steps of one number of rows cost, in seconds.

    Attributes:
        plain: of the last steps without drafts.
        per_draft: what each draft added to the last steps with some.
        since_plain: steps with drafts since the last one without.
        since_drafted: and the other way round.
    """

    plain: deque[float] = field(default_factory=lambda: deque(maxlen=_TIMINGS))
    per_draft: deque[float] = field(default_factory=lambda: deque(maxlen=_TIMINGS))
    since_plain: int = 0
    since_drafted: int = 0

    @property
    def is_trial(self) -> bool:
        """Whether what a draft adds is not known, or may have changed."""
        return len(self.per_draft) < _DRAFTED_FIRST or self.since_drafted >= _TRIAL_EVERY

    def cost_of_a_draft(self) -> float:
        """Seconds that a draft adds; in a trial no more than what is believed before anything is measured."""
        believed = _COST_OF_A_DRAFT * median(self.plain)
        measured = median(self.per_draft) if self.per_draft else believed
        return min(measured, believed) if self.is_trial else measured


@dataclass(frozen=True, slots=True)
class RowText:
    """A row as drafts see it.

    Attributes:
        number: stays the row's own.
        ids: prompt and new tokens.
        most: drafts that it has room for.
        chooser: chooses its tokens.
    """

    number: int
    ids: Sequence[int]
    most: int
    chooser: TokenChooser


class RowsSpeculator:
    """Looks drafts up in each row's own text and feeds those that promise more than they cost.

    A step of B rows and D drafts takes what one of B rows takes, and D times what a draft adds; both are measured. It
    brings B tokens and, of a row whose drafts stand with probability a, the sum of a, a^2, … over its drafts. Drafts
    are taken while that raises the tokens per second, the most promising first.
    """

    def __init__(self) -> None:
        self._rows: dict[int, _RowState] = {}
        self._costs: dict[int, _Costs] = {}
        self.num_drafted = 0
        self.num_accepted = 0

    def draft(self, rows: Sequence[RowText]) -> list[list[int]]:
        """The drafts of each row; all of them empty where none would pay."""
        self._rows = {row.number: self._rows.get(row.number) or _RowState() for row in rows}
        found = [self._look_up(row) for row in rows]
        counts = self._counts([len(drafts) for drafts in found], [self._rows[row.number].acceptance for row in rows])
        for row, drafts, count in zip(rows, found, counts, strict=True):
            if drafts and not count:
                state = self._rows[row.number]
                state.shadow, state.shadow_start = drafts[0], len(row.ids)
        return [drafts[:count] for drafts, count in zip(found, counts, strict=True)]

    def record_step(self, num_rows: int, num_drafted: int, seconds: float) -> None:
        """A step of so many rows with so many drafts in all took so long."""
        costs = self._costs.setdefault(num_rows, _Costs())
        if not num_drafted:
            costs.plain.append(seconds)
            costs.since_plain = 0
            costs.since_drafted += 1
        elif costs.plain:
            costs.per_draft.append(max(seconds - median(costs.plain), 0.0) / num_drafted)
            costs.since_plain += 1
            costs.since_drafted = 0

    def record_outcome(self, number: int, num_drafted: int, num_accepted: int) -> None:
        """So many of a row's drafts were accepted."""
        self.num_drafted += num_drafted
        self.num_accepted += num_accepted
        state = self._rows.get(number)
        # Drafts after the first wrong one say nothing.
        for place in range(min(num_accepted + 1, num_drafted) if state is not None else 0):
            assert state is not None
            state.observe(place < num_accepted)

    def _look_up(self, row: RowText) -> list[int]:
        state = self._rows[row.number]
        if state.shadow is not None and len(row.ids) > state.shadow_start:
            state.observe(row.ids[state.shadow_start] == state.shadow)
            state.shadow = None
        return state.lookup.draft(row.ids, min(_MOST_DRAFTED, row.most), row.chooser)

    def _counts(self, found: Sequence[int], acceptances: Sequence[float]) -> list[int]:
        """Drafts to feed for each row, of those that were found."""
        counts = [0] * len(found)
        costs = self._costs.setdefault(len(found), _Costs())
        if len(costs.plain) < _PLAIN_FIRST or costs.since_plain >= _PLAIN_EVERY:
            return counts
        seconds = median(costs.plain)
        per_draft = costs.cost_of_a_draft()
        # A trial is to cost half a step at most: a draft adds no more than a row does.
        most = max(1, len(found) // 2) if costs.is_trial else sum(found)
        tokens = float(len(found))
        # (-probability that the draft stands, row); a row's next draft comes in when its last one was taken.
        promising = [(-acceptances[place], place) for place, most in enumerate(found) if most]
        heapq.heapify(promising)
        while promising and sum(counts) < most:
            probability, place = -promising[0][0], promising[0][1]
            if probability * seconds < _PAYS_FROM * per_draft * tokens:
                return counts
            counts[place] += 1
            tokens, seconds = tokens + probability, seconds + per_draft
            if counts[place] < found[place]:
                heapq.heapreplace(promising, (-probability * acceptances[place], place))
            else:
                heapq.heappop(promising)
        return counts
