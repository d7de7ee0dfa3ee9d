"""Rules that change scores before a token is chosen: penalties, bans, biases, forced ids, the caller's hooks.

Those that transformers has are applied in its order and give its scores; presence and frequency penalties are as in
OpenAI's interface and count generated ids only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from codegen_edge.errors import InvalidInputError, NumericsError
from codegen_edge.generation.constraints.followed import FollowedConstraint
from codegen_edge.generation.params import GenerationParams

Scores = NDArray[np.float32]

_NEVER = np.float32(-np.inf)


class ScoreRules:
    """The rules of one request.

    Args:
        params: which rules.
        prompt_length: tokens of the prompt.
        end_ids: the end of text and the stop ids.
        constraint: that the row follows.
    """

    def __init__(
        self,
        params: GenerationParams,
        prompt_length: int,
        end_ids: Sequence[int],
        constraint: FollowedConstraint | None = None,
    ) -> None:
        self._params = params
        self._constraint = constraint
        self._prompt_length = prompt_length
        self._end_ids = list(end_ids)
        self._bias_ids = np.array(list(params.logit_bias), np.int64)
        self._biases = np.array(list(params.logit_bias.values()), np.float32)
        # As in transformers: a word that is an end id alone is no bad word (min_new_tokens keeps a text from ending).
        self._bad_words = [word for word in params.bad_words_ids if len(word) > 1 or word[0] not in self._end_ids]
        self._suppressed = np.array(params.suppressed_ids, np.int64)
        self.is_idle = not (
            params.logit_bias
            or params.suppressed_ids
            or params.repetition_penalty != 1
            or params.presence_penalty
            or params.frequency_penalty
            or params.no_repeat_ngram_size
            or params.bad_words_ids
            or params.min_new_tokens
            or params.forced_ids
            or params.processors
            or constraint
        )

    def apply(self, scores: Scores, ids: Sequence[int]) -> Scores:
        """Scores [V] after `ids` (prompt and new tokens), by the rules; `scores` itself is not changed."""
        if self.is_idle:
            return scores
        params, num_new = self._params, len(ids) - self._prompt_length
        scores = scores.copy()
        if params.logit_bias:
            scores[self._bias_ids] += self._biases
        if params.repetition_penalty != 1:
            _penalize_repetition(scores, ids, params.repetition_penalty)
        if num_new and (params.presence_penalty or params.frequency_penalty):
            seen, counts = np.unique(np.asarray(ids[self._prompt_length :]), return_counts=True)
            scores[seen] -= np.float32(params.presence_penalty) + np.float32(params.frequency_penalty) * counts.astype(
                np.float32
            )
        if params.no_repeat_ngram_size:
            # A prompt may hold ids that no token has; they are not chosen anyhow.
            repeated = [each for each in ids_that_repeat(ids, params.no_repeat_ngram_size) if each < len(scores)]
            scores[repeated] = _NEVER
        for word in self._bad_words:
            before = len(word) - 1
            if before == 0 or (before <= len(ids) and tuple(ids[-before:]) == word[:-1]):
                scores[word[-1]] = _NEVER
        if num_new < params.min_new_tokens:
            scores[self._end_ids] = _NEVER
        if num_new in params.forced_ids:
            forced = params.forced_ids[num_new]
            scores[:] = _NEVER
            scores[forced] = 0
        if params.suppressed_ids:
            scores[self._suppressed] = _NEVER
        for number, processor in enumerate(params.processors):
            scores = _called(processor, number, ids, scores)
        if self._constraint is not None:
            scores = np.where(self._constraint.allowed(ids, len(scores)), scores, _NEVER)
        return scores


def _penalize_repetition(scores: Scores, ids: Sequence[int], penalty: float) -> None:
    seen = np.unique(np.asarray(ids))
    seen = seen[seen < len(scores)]
    values = scores[seen]
    factor = np.float32(penalty)
    scores[seen] = np.where(values < 0, values * factor, values / factor)


def ids_that_repeat(ids: Sequence[int], size: int) -> list[int]:
    """Ids that would complete a run of `size` ids that occurred already."""
    if len(ids) + 1 < size:
        return []
    end = tuple(ids[len(ids) - size + 1 :])
    return [
        ids[start + size - 1] for start in range(len(ids) - size + 1) if tuple(ids[start : start + size - 1]) == end
    ]


def _called(processor: object, number: int, ids: Sequence[int], scores: Scores) -> Scores:
    assert callable(processor)
    result = processor(ids, scores)
    if not isinstance(result, np.ndarray) or result.shape != scores.shape or result.dtype != np.float32:
        given = f"{result.dtype} {result.shape}" if isinstance(result, np.ndarray) else type(result).__name__
        raise InvalidInputError(f"processors[{number}] must return float32 {scores.shape}, it returned {given}")
    if np.isnan(result.max(initial=-np.inf)) or result.max(initial=-np.inf) == np.inf:
        raise NumericsError(f"processors[{number}] returned NaN or infinity")
    return result
