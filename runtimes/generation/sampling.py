"""Choosing the next token from logits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codegen_edge.errors import NumericsError
from codegen_edge.runtimes.generation.params import GenerationParams


class TokenChooser:
    """Chooses one row's tokens; owns the row's random numbers.

    Args:
        params: how to choose.
        num_allowed_ids: ids from here on are never chosen (rows of the LM head without a token).
    """

    def __init__(self, params: GenerationParams, num_allowed_ids: int) -> None:
        self._params = params
        self._num_allowed_ids = num_allowed_ids
        self._random = np.random.default_rng(params.seed)

    def choose(self, logits: NDArray[np.float32], step: int) -> int:
        """The next token id.

        Args:
            logits: [V] float32.
            step: number of the step, for the error's text.

        Raises:
            NumericsError: a logit is NaN or +inf, or all are -inf.
        """
        allowed = logits[: self._num_allowed_ids]
        best = int(allowed.argmax())  # the first NaN, if there is one
        if not np.isfinite(allowed[best]):
            raise NumericsError(
                f"the logits of step {step} are not finite (id {best} has {allowed[best]}); "
                "the weights or the runtime are broken"
            )
        if self._params.temperature == 0:
            return best
        probabilities = next_token_probabilities(allowed, self._params)
        cumulative = probabilities.cumsum()
        drawn = self._random.random() * cumulative[-1]
        return int(cumulative.searchsorted(drawn, side="right"))


def next_token_probabilities(logits: NDArray[np.float32], params: GenerationParams) -> NDArray[np.float64]:
    """The distribution that sampling draws from: temperature, then top-k, then top-p, as in transformers.

    Args:
        logits: [V] float32, the largest one finite.
        params: `temperature` must be above 0.

    Returns:
        [V] float64 that sums to 1; tokens outside top-k or top-p have 0.
    """
    largest = logits.max()
    # Subtract before dividing: a tiny temperature then gives -inf, never inf - inf.
    with np.errstate(over="ignore"):
        scaled = (logits.astype(np.float64) - largest) / params.temperature
    if 0 < params.top_k < len(scaled):
        threshold = np.partition(scaled, -params.top_k)[-params.top_k]
        scaled[scaled < threshold] = -np.inf  # ties with the k-th stay, as in transformers
    weights = np.exp(scaled)
    probabilities: NDArray[np.float64] = weights / weights.sum()
    if params.top_p < 1:
        # Ascending, so that of equally likely tokens the same ones stay as in transformers.
        order = np.argsort(probabilities, kind="stable")
        is_tail = probabilities[order].cumsum() <= 1 - params.top_p
        is_tail[-1] = False  # the likeliest always stays
        probabilities[order[is_tail]] = 0.0
        probabilities /= probabilities.sum()
    return probabilities
