"""Log probabilities of a prompt's own tokens, read slice by slice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codegen_edge.errors import NumericsError
from codegen_edge.generation.sampling import log_softmax
from codegen_edge.runtimes.runtime import KVCache, Runtime

TopLogprobs = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class PromptScores:
    """Of every token of a prompt but the first, which nothing comes before.

    Attributes:
        logprobs: [T - 1] of each token, in the model's own distribution after those before it.
        top_logprobs: the likeliest ids with theirs, in its place.
    """

    logprobs: tuple[float, ...]
    top_logprobs: tuple[TopLogprobs, ...]


class PromptScorer:
    """Reads one prompt for its log probabilities; its cache then holds the prompt.

    Args:
        runtime: computes the logits.
        prompt: [T] token ids.
        num_top: how many of the likeliest ids to keep beside each token.
        num_ids: ids of the tokenizer; those above are never named.
    """

    def __init__(self, runtime: Runtime, prompt: tuple[int, ...], num_top: int, num_ids: int) -> None:
        self.cache: KVCache = runtime.new_cache(1, len(prompt))
        self._runtime = runtime
        self._prompt = prompt
        self._num_top, self._num_ids = num_top, num_ids
        self._num_read = 0
        self._logprobs: list[float] = []
        self._top: list[TopLogprobs] = []

    @property
    def is_done(self) -> bool:
        """Whether the last token has its log probability."""
        return len(self._logprobs) == len(self._prompt) - 1

    def read(self, num_tokens: int) -> None:
        """Read on; the last token itself is not read: nothing is wanted after it.

        Raises:
            NumericsError: the logits are not finite.
        """
        stop = min(self._num_read + num_tokens, len(self._prompt) - 1)
        if stop <= self._num_read:
            return
        ids = np.array([self._prompt[self._num_read : stop]], np.int64)
        logits = self._runtime.step(ids, self.cache, all_logits=True)[0]
        if not np.isfinite(logits.max(axis=-1)).all():
            raise NumericsError("the logits of the prompt are not finite; the weights or the runtime are broken")
        for place, row in enumerate(log_softmax(logits), self._num_read + 1):
            self._logprobs.append(float(row[self._prompt[place]]))
            self._top.append(likeliest(row[: self._num_ids], self._num_top))
        self._num_read = stop

    def scores(self) -> PromptScores:
        """What was read."""
        return PromptScores(tuple(self._logprobs), tuple(self._top))


def likeliest(logprobs: NDArray[np.float32], count: int) -> TopLogprobs:
    """The `count` likeliest ids of [V] with their log probabilities, the likeliest first."""
    count = min(count, len(logprobs))
    if not count:
        return ()
    ids = np.argpartition(logprobs, -count)[-count:]
    ordered = ids[np.lexsort((ids, -logprobs[ids]))]
    return tuple((int(each), float(logprobs[each])) for each in ordered)
