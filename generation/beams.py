"""Beam search: the likeliest texts instead of one likeliest token after another, as transformers defines it.

A candidate's score is the sum of its tokens' log probabilities; a finished one's is divided by its length to the
power of `length_penalty`. Twice as many candidates as beams are kept a step (more with stop ids), so that as many
beams go on when some end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codegen_edge.errors import InvalidInputError, NumericsError
from codegen_edge.generation.cancel import CancelToken
from codegen_edge.generation.params import FinishReason, GenerationParams
from codegen_edge.generation.prefill import OnPrefill, Pace, Prefill, step_unless_cancelled
from codegen_edge.generation.request import Request
from codegen_edge.generation.rules import ScoreRules
from codegen_edge.generation.sampling import log_softmax
from codegen_edge.runtimes.runtime import KVCache, Logits, Runtime

_PIECES = 16  # per wanted value, whose maxima are compared first
_OUT = np.float32(-1e9)  # takes a candidate out of a choice, and yet leaves its order among others that are out


@dataclass(frozen=True, slots=True, kw_only=True)
class Beam:
    """A text that the search found.

    Attributes:
        token_ids: the new tokens, the one that ended it included.
        score: its log probability over its length to the power of `length_penalty`.
        finish_reason: why it ended.
    """

    token_ids: tuple[int, ...]
    score: float
    finish_reason: FinishReason


@dataclass(slots=True)
class _Finished:
    """The best finished beams, best first; an empty one until there are enough."""

    token_ids: list[tuple[int, ...]]
    scores: NDArray[np.float32]
    is_there: NDArray[np.bool_]

    def add(
        self, token_ids: list[tuple[int, ...]], scores: NDArray[np.float32], is_finished: NDArray[np.bool_]
    ) -> None:
        size = len(self.scores)
        all_ids = self.token_ids + token_ids
        all_scores = np.concatenate([self.scores, scores + np.where(is_finished, 0, _OUT).astype(np.float32)])
        all_there = np.concatenate([self.is_there, is_finished])
        best = _largest(all_scores, size)
        self.token_ids = [all_ids[place] for place in best]
        self.scores, self.is_there = all_scores[best], all_there[best]


def beam_search(
    runtime: Runtime,
    prompt: Sequence[int] | Request,
    params: GenerationParams | None = None,
    *,
    num_allowed_ids: int | None = None,
    cancel: CancelToken | None = None,
    on_prefill: OnPrefill | None = None,
) -> list[Beam]:
    """Up to `params.n` best texts after one prompt, best first.

    Args:
        runtime: computes the logits.
        prompt: token ids; or a Request of one prompt, which is checked already.
        params: `num_beams`, `length_penalty`, `early_stopping`, `n`, and every rule that changes scores; of a Request
            its own.
        num_allowed_ids: ids from here on are never chosen; None allows the whole vocabulary.
        cancel: stops the search with CancelledError.
        on_prefill: called with the prompt's tokens that are read, and those to read.

    Raises:
        InvalidInputError: an empty prompt, an id outside the vocabulary; the rules forbid every text.
        ContextLengthError: the prompt leaves no room.
        NumericsError: the logits are not finite.
    """
    config = runtime.config
    if not isinstance(prompt, Request):
        prompt = Request.of([prompt], params or GenerationParams(), config, num_allowed_ids)
    (ids,) = prompt.prompts
    most_new = min(prompt.params.max_new_tokens, config.context_length - len(ids))
    prefill = Prefill(prompt, 0, on_prefill=on_prefill)
    capacity = min(len(ids) + most_new, config.context_length)
    prefill.advance(runtime, capacity, Pace(), seconds=None, cancel=cancel)
    (group,) = prefill.groups
    logits, cache = group.logits, group.cache
    assert logits is not None
    assert cache is not None
    search = _Search(runtime, cache, list(ids), prompt.params, most_new, prompt.num_allowed_ids)
    while True:
        fed = search.take(logits)
        if fed is None:
            beams = search.best()
            if not beams:
                raise InvalidInputError("the rules leave no text that could end; loosen them")
            return beams
        logits = step_unless_cancelled(runtime, fed, cache, [cancel] if cancel is not None else [])


class _Search:
    def __init__(
        self,
        runtime: Runtime,
        cache: KVCache,
        prompt: list[int],
        params: GenerationParams,
        most_new: int,
        num_allowed_ids: int,
    ) -> None:
        self._cache, self._prompt, self._params, self._most_new = cache, prompt, params, most_new
        self._num_allowed_ids = num_allowed_ids
        self._eos_token_id = runtime.config.eos_token_id
        self._end_ids = sorted({self._eos_token_id, *params.stop_ids})
        self._rules = ScoreRules(params, len(prompt), self._end_ids)
        size = params.num_beams
        self._num_candidates = max(2, 1 + len(self._end_ids)) * size
        self._running: list[tuple[int, ...]] = [()] * size
        # All beams are the prompt at first: only one of them may bring candidates.
        self._scores = np.where(np.arange(size) == 0, np.float32(0), _OUT).astype(np.float32)
        self._finished = _Finished([()] * size, np.full(size, _OUT, np.float32), np.zeros(size, np.bool_))
        self._can_improve = True
        self._step = 0

    def take(self, logits: Logits) -> NDArray[np.int64] | None:
        """Extend every beam by one token; the tokens [beams, 1] to feed next, or None at the end."""
        size, params = self._params.num_beams, self._params
        totals = self._totals(logits)  # [beams, V]
        best = _largest(totals.ravel(), self._num_candidates)
        scores = totals.ravel()[best]
        parents, tokens = (part.tolist() for part in np.divmod(best, totals.shape[1]))
        if scores[0] <= _OUT:
            if self.best():
                return None
            raise InvalidInputError(f"the rules forbid every id at step {self._step}; loosen them")
        self._step += 1
        candidates = [(*self._running[parent], token) for parent, token in zip(parents, tokens, strict=True)]
        is_over = np.isin(tokens, self._end_ids) | (self._step >= self._most_new)

        ended = scores / np.float32(self._step**params.length_penalty)
        if (self._finished.is_there.all() and params.early_stopping is True) or not self._can_improve:
            ended = ended + _OUT
        self._finished.add(candidates, ended, is_over & (np.arange(len(best)) < size))

        going_scores = scores + np.where(is_over, _OUT, 0).astype(np.float32)
        going = _largest(going_scores, size)
        self._running = [candidates[place] for place in going]
        self._scores = going_scores[going]
        self._can_improve = self._can_improve and self._may_improve()
        is_full = self._finished.is_there.all() and params.early_stopping is True
        if not self._can_improve or is_full or is_over.all():
            return None
        # What the beams have in common from the prompt on need not be moved.
        self._cache.select([parents[place] if self._step > 1 else 0 for place in going], len(self._prompt))
        return np.array([[tokens[place]] for place in going], np.int64)

    def best(self) -> list[Beam]:
        """The best finished texts; fewer than `n` where the rules leave fewer."""
        return [
            Beam(token_ids=ids, score=float(score), finish_reason=self._reason(ids))
            for ids, score, is_there in zip(
                self._finished.token_ids, self._finished.scores, self._finished.is_there, strict=True
            )
            # A beam that grew out of none, where too few ids are allowed, is no text.
            if is_there and score * len(ids) ** self._params.length_penalty > _OUT / 2
        ][: self._params.n]

    def _totals(self, logits: Logits) -> NDArray[np.float32]:
        """[beams, V] the score of every beam with every next token."""
        largest = logits.max(axis=-1)
        if not np.isfinite(largest).all():
            raise NumericsError(
                f"the logits of step {self._step} are not finite; the weights or the runtime are broken"
            )
        logprobs = log_softmax(logits)
        logprobs[:, self._num_allowed_ids :] = -np.inf
        rows = [
            self._rules.apply(row, [*self._prompt, *ids]) for row, ids in zip(logprobs, self._running, strict=False)
        ]
        return np.stack(rows if len(rows) == len(self._running) else rows * len(self._running)) + self._scores[:, None]

    def _may_improve(self) -> bool:
        """Whether the best beam that goes on may yet be better than the worst finished one."""
        length = self._step
        if self._params.early_stopping == "never" and self._params.length_penalty > 0:
            length = self._most_new
        best_possible = self._scores[0] / np.float32(length**self._params.length_penalty)
        worst = np.where(self._finished.is_there, self._finished.scores.min(), _OUT)
        return bool((best_possible > worst).any())

    def _reason(self, ids: tuple[int, ...]) -> FinishReason:
        if ids[-1] == self._eos_token_id:
            return "end_of_text"
        if ids[-1] in self._end_ids:
            return "stop_id"
        return "length" if len(ids) == self._params.max_new_tokens else "context"


def _largest(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Places of the `count` largest values, largest first, of equal ones the first."""
    count = min(count, len(values))
    # At least `count` values reach the `count` largest maxima of disjoint pieces. To partition the maxima instead of
    # all values is faster, and does not slow down where most of them are equal, as banned ids are.
    piece = max(1, len(values) // (_PIECES * count))
    maxima = np.maximum.reduceat(values, np.arange(0, len(values), piece))
    threshold = np.partition(maxima, -count)[-count] if len(maxima) >= count else values.min()
    ties = np.flatnonzero(values == threshold)[:count]
    places = np.concatenate([np.flatnonzero(values > threshold), ties])
    return places[np.argsort(-values[places], kind="stable")][:count]
