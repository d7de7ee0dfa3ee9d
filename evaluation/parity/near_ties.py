"""Whether two tokens could both be the choice, given how far a scheme's own steps move a logit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codegen_edge.runtimes.runtime import Runtime


def noise_on(runtime: Runtime, token_ids: NDArray[np.int64]) -> tuple[float, NDArray[np.float32]]:
    """How far the logits of a text move with the way it is read.

    Args:
        runtime: of the scheme.
        token_ids: [T] int64, the text.

    Returns:
        The largest difference of a logit between one read of the whole text and: a read token by token, one in chunks
        of 7, and one token by token beside a second row that reads the text from its middle on. And the logits
        [T, V] of the one read.
    """
    num_tokens = len(token_ids)
    whole = runtime.step(token_ids[None], runtime.new_cache(1, num_tokens), all_logits=True)[0]
    largest = 0.0
    for rows, chunk in ((1, 1), (1, 7), (2, 1)):
        cache = runtime.new_cache(rows, num_tokens)
        beside = np.roll(token_ids, num_tokens // 2)
        ids = np.stack([token_ids, beside][:rows])
        for start in range(0, num_tokens, chunk):
            logits = runtime.step(ids[:, start : start + chunk], cache, all_logits=True)[0]
            largest = max(largest, float(np.abs(logits - whole[start : start + len(logits)]).max()))
    return largest, whole


def is_near_tie(
    logits: NDArray[np.float32],
    first: int,
    second: int,
    noise: float,
    *,
    temperature: float = 0.0,
    uniform: float = 0.0,
) -> bool:
    """Whether logits that differ from these by up to `noise` each may make `second` the choice, where `first` is.

    Args:
        logits: [V] float32, that `first` was chosen from; of the ids that may be chosen.
        first: the choice.
        second: another choice, from logits of the same text read another way.
        noise: the largest difference of a logit between two ways of reading, as `noise_on` measures it.
        temperature: 0 for greedy choice; otherwise of sampling from all ids.
        uniform: the random number in [0, 1) that the sample was drawn with.

    A greedy choice can change where the lead is at most twice the noise. A sample is the first id whose cumulative
    probability is above the random number: the odds of the ids up to some id against those behind it change by a
    factor of exp(2 * noise / temperature) at most.
    """
    if temperature == 0:
        return float(logits[first] - logits[second]) <= 2 * noise
    scaled = (logits - logits.max()).astype(np.float64) / temperature
    cumulative = np.exp(scaled).cumsum()
    cumulative /= cumulative[-1]
    factor = float(np.exp(2 * noise / temperature))

    def moved(share: float, by: float) -> float:
        odds = share * by
        return odds / (odds + 1 - share)

    before = float(cumulative[second - 1]) if second else 0.0
    return moved(before, 1 / factor) <= uniform <= moved(float(cumulative[second]), factor)
