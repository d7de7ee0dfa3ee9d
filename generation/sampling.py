"""Choosing the next token from logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from codegen_edge.errors import InvalidInputError, NumericsError
from codegen_edge.generation.constraints.followed import FollowedConstraint
from codegen_edge.generation.params import GenerationParams
from codegen_edge.generation.rules import ScoreRules

# Ids whose weight is below this share of the likeliest one's are looked at only where the others do not suffice.
_RARE = (1e-4, 1e-7)
_LOST_EXPONENT = 50.0  # e^-50 times the vocabulary is below half of float64's last digit of 1


@dataclass(frozen=True, slots=True)
class Chosen:
    """A token, and what was asked about it.

    Attributes:
        token_id: the id.
        logprob: its log probability in the model's own distribution, or None where it was not asked for.
        top_logprobs: the likeliest ids and their log probabilities, likeliest first.
    """

    token_id: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


class TokenChooser:
    """Chooses one row's tokens. What it chooses depends on logits, ids and the seed, on nothing else.

    Args:
        params: how to choose.
        num_allowed_ids: ids from here on are never chosen (rows of the LM head without a token).
        prompt_length: tokens of the prompt.
        end_ids: the end of text and the stop ids.
        sample: which of `params.n` samples this is; the first one draws what a single one would.
    """

    def __init__(
        self,
        params: GenerationParams,
        num_allowed_ids: int,
        *,
        prompt_length: int = 0,
        end_ids: Sequence[int] = (),
        sample: int = 0,
    ) -> None:
        self._params = params
        self._num_allowed_ids = num_allowed_ids
        self._prompt_length = prompt_length
        given = params.constraint
        self._constraint = None if given is None else FollowedConstraint(given, prompt_length, end_ids)
        self._rules = ScoreRules(params, prompt_length, end_ids, self._constraint)
        self._own_rules = ScoreRules(replace(params, processors=()), prompt_length, end_ids, self._constraint)
        seed = None if params.seed is None else params.seed if sample == 0 else (params.seed, sample)
        self._random = np.random.default_rng(seed)
        self._uniforms: list[float] = []

    def choose(self, logits: NDArray[np.float32], ids: Sequence[int] = ()) -> Chosen:
        """The next token after `ids` (prompt and new tokens).

        The same arguments give the same token, however often they are given: a step has its own random number.

        Args:
            logits: [V] float32.
            ids: what the row holds.

        Raises:
            NumericsError: a logit is NaN or +inf, or all are -inf.
            InvalidInputError: the rules forbid every id, a hook returned something of another shape, or the constraint
                has become too complex to follow.
        """
        return self._choose(logits, ids, self._rules, with_logprobs=self._params.top_logprobs is not None)

    def is_complete(self, ids: Sequence[int]) -> bool:
        """Whether the constraint allows nothing after `ids`, which are a whole text."""
        return self._constraint is not None and self._constraint.is_complete(ids)

    def draft(self, logits: NDArray[np.float32], ids: Sequence[int]) -> int | None:
        """What `choose` would make of a draft model's logits, or None where they make no sense.

        The caller's hooks are not called: they may keep count, and are called for the model's own logits only.
        """
        try:
            return self._choose(logits, ids, self._own_rules, with_logprobs=False).token_id
        except (NumericsError, InvalidInputError):
            return None

    def _choose(
        self, logits: NDArray[np.float32], ids: Sequence[int], rules: ScoreRules, *, with_logprobs: bool
    ) -> Chosen:
        step = len(ids) - self._prompt_length
        allowed = logits[: self._num_allowed_ids]
        best = int(allowed.argmax())  # the first NaN, if there is one
        if not np.isfinite(allowed[best]):
            raise NumericsError(
                f"the logits of step {step} are not finite (id {best} has {allowed[best]}); "
                "the weights or the runtime are broken"
            )
        if not rules.is_idle:
            scores = rules.apply(allowed, ids)
            best = int(scores.argmax())
            if not scores[best] < np.inf:
                raise NumericsError(f"the rules made a score of step {step} NaN or infinite (id {best})")
            if scores[best] == -np.inf:
                who = "rules" if self._constraint is None else "rules and the constraint together"
                raise InvalidInputError(f"the {who} forbid every id at step {step}; loosen them")
        else:
            scores = allowed
        token_id = best if self._params.temperature == 0 else self._sampled(scores, step)
        if not with_logprobs or self._params.top_logprobs is None:
            return Chosen(token_id)
        logprobs = log_softmax(logits)[: self._num_allowed_ids]
        if not np.isfinite(logprobs[token_id]):
            raise NumericsError(f"the logits of step {step} are not finite; the weights or the runtime are broken")
        return _with_logprobs(token_id, logprobs, self._params.top_logprobs)

    def _sampled(self, scores: NDArray[np.float32], step: int) -> int:
        while len(self._uniforms) <= step:
            self._uniforms.append(float(self._random.random()))
        ids, probabilities = kept_ids(scores, self._params)
        cumulative = probabilities.cumsum(dtype=np.float64)
        place = int(cumulative.searchsorted(self._uniforms[step] * cumulative[-1], side="right"))
        return int(ids[min(place, len(ids) - 1)])


def _with_logprobs(token_id: int, logprobs: NDArray[np.float32], count: int) -> Chosen:
    count = min(count, len(logprobs))
    likeliest = np.argpartition(logprobs, -count)[-count:] if count else np.empty(0, np.int64)
    ordered = likeliest[np.lexsort((likeliest, -logprobs[likeliest]))]
    return Chosen(token_id, float(logprobs[token_id]), tuple((int(each), float(logprobs[each])) for each in ordered))


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """[..., V] float32 log probabilities; sums are taken in float64."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    total = np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)
    result: NDArray[np.float32] = shifted - np.log(total).astype(np.float32)
    return result


def next_token_probabilities(logits: NDArray[np.float32], params: GenerationParams) -> NDArray[np.float64]:
    """The distribution [V] that sampling draws from; ids that are not kept have 0."""
    ids, kept = kept_ids(logits, params)
    probabilities = np.zeros(len(logits))
    probabilities[ids] = kept
    return probabilities


def kept_ids(logits: NDArray[np.float32], params: GenerationParams) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The ids that sampling draws from, ascending, and their probabilities, which sum to 1.

    Temperature, then top-k, top-p, min-p and typical, each on what the one before left, as in transformers.

    Args:
        logits: [V] float32, the largest one finite.
        params: `temperature` must be above 0.
    """
    largest = logits.max()
    # Whatever is below has a weight of less than e^-50 of the largest one's: all of them together are lost in the
    # rounding of a float64 sum that holds it. At low temperatures that is nearly the whole vocabulary.
    ids = np.flatnonzero(logits >= np.float64(largest) - _LOST_EXPONENT * params.temperature)
    # Subtract before dividing: a tiny temperature then gives -inf, never inf - inf.
    with np.errstate(over="ignore"):
        scaled = ((logits[ids] - largest) / np.float64(params.temperature)).astype(np.float64)
    if 0 < params.top_k < len(scaled):
        # Ties with the k-th stay, as in transformers.
        is_kept = scaled >= np.partition(scaled, -params.top_k)[-params.top_k]
        ids, scaled = ids[is_kept], scaled[is_kept]
    weights = np.exp(scaled)
    probabilities: NDArray[np.float64] = weights / weights.sum()
    if params.top_p < 1:
        ids, probabilities = _kept(ids, probabilities, _in_top_p(probabilities, params.top_p))
    if params.min_p > 0:
        ids, probabilities = _kept(ids, probabilities, probabilities >= params.min_p * probabilities.max())
    if params.typical_p < 1:
        ids, probabilities = _kept(ids, probabilities, _is_typical(probabilities, params.typical_p))
    return ids, probabilities


def _kept(
    ids: NDArray[np.int64], probabilities: NDArray[np.float64], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    left = probabilities[mask]
    return ids[mask], left / left.sum()


def _in_top_p(probabilities: NDArray[np.float64], top_p: float) -> NDArray[np.bool_]:
    """Which stay: all but the least likely ones that together reach no more than 1 - p."""
    for rare in _RARE:
        common = np.flatnonzero(probabilities >= rare * probabilities.max())
        if probabilities[common].sum() > top_p:
            break
    else:
        common = np.arange(len(probabilities))
    # Ascending, so that of equally likely tokens the same ones stay as in transformers.
    order = common[np.argsort(probabilities[common], kind="stable")]
    rest = max(0.0, 1.0 - float(probabilities[order].sum()))  # of those that were not looked at
    is_tail = rest + probabilities[order].cumsum() <= 1 - top_p
    is_tail[-1] = False  # the likeliest always stays
    mask = np.zeros(len(probabilities), np.bool_)
    mask[order[~is_tail]] = True
    return mask


def _is_typical(probabilities: NDArray[np.float64], mass: float) -> NDArray[np.bool_]:
    """Which stay: those whose surprise is nearest to the entropy, until `mass` is reached, and ties with the last.

    C. Meister et al., "Locally Typical Sampling" (2022).
    """
    with np.errstate(divide="ignore"):
        surprise = -np.log(probabilities)
    entropy = float((probabilities * np.where(probabilities > 0, surprise, 0)).sum())
    distance = np.abs(surprise - entropy)
    order = np.argsort(distance, kind="stable")
    last = min(int((probabilities[order].cumsum() < mass).sum()), len(order) - 1)
    mask: NDArray[np.bool_] = distance <= distance[order[last]]
    return mask
