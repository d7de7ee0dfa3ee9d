"""What quantizing did to a model: its distributions against those of the float model, over held-out text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from codegen_edge.evaluation.perplexity import (
    document_ids,
    log_sum_exp,
    negative_log_likelihood,
    teacher_forced,
)
from codegen_edge.runtimes.runtime import Logits, Runtime
from codegen_edge.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A candidate beside its reference, over the same tokens through the cached path of both.

    Attributes:
        num_tokens: predicted tokens.
        mean_kl: Kullback-Leibler divergence from the reference's distribution, in nats, mean over tokens.
        max_kl: of a token.
        max_abs_error: of a logit.
        top1_agreement: share of positions whose likeliest token is the reference's.
        perplexity, reference_perplexity: of a token.
    """

    num_tokens: int
    mean_kl: float
    max_kl: float
    max_abs_error: float
    top1_agreement: float
    perplexity: float
    reference_perplexity: float

    @property
    def perplexity_loss(self) -> float:
        """Perplexity over the reference's, less 1; 0.01 is one percent worse."""
        return self.perplexity / self.reference_perplexity - 1

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "num_tokens": self.num_tokens,
            "mean_kl": self.mean_kl,
            "max_kl": self.max_kl,
            "max_abs_error": self.max_abs_error,
            "top1_agreement": self.top1_agreement,
            "perplexity": self.perplexity,
            "reference_perplexity": self.reference_perplexity,
            "perplexity_loss": self.perplexity_loss,
        }


def measure_damage(
    candidate: Runtime,
    reference: Runtime,
    tokenizer: Tokenizer,
    documents: Sequence[str],
    *,
    max_tokens: int | None = None,
) -> Damage:
    """Compare two runtimes on `documents`, token by token.

    Args:
        candidate: the quantized model.
        reference: the float model.
        tokenizer: of both.
        documents: texts, each read by itself.
        max_tokens: begin no further text once so many tokens were predicted; None reads all.

    Raises:
        NumericsError: a logit is NaN or infinite.
    """
    count = agreed = 0
    nll = reference_nll = total_kl = max_kl = max_abs_error = 0.0
    for text in documents:
        if max_tokens is not None and count >= max_tokens:
            break
        token_ids = document_ids(tokenizer, text)
        steps = zip(teacher_forced(candidate, token_ids), teacher_forced(reference, token_ids), strict=True)
        for (targets, actual), (_, expected) in steps:
            nll += float(negative_log_likelihood(actual, targets).sum())
            reference_nll += float(negative_log_likelihood(expected, targets).sum())
            divergences = kl_divergences(expected, actual)
            total_kl += float(divergences.sum())
            max_kl = max(max_kl, float(divergences.max()))
            max_abs_error = max(max_abs_error, float(np.abs(expected - actual).max()))
            agreed += int((expected.argmax(axis=-1) == actual.argmax(axis=-1)).sum())
            count += len(targets)
    return Damage(
        num_tokens=count,
        mean_kl=total_kl / count,
        max_kl=max_kl,
        max_abs_error=max_abs_error,
        top1_agreement=agreed / count,
        perplexity=math.exp(nll / count),
        reference_perplexity=math.exp(reference_nll / count),
    )


def kl_divergences(expected: Logits, actual: Logits) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[T] KL(softmax(expected) || softmax(actual)) in nats, from logits [T, V]."""
    log_p = expected - log_sum_exp(expected)[:, None]
    log_q = actual - log_sum_exp(actual)[:, None]
    divergences: np.ndarray[Any, np.dtype[np.float64]] = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    np.maximum(divergences, 0.0, out=divergences)
    return divergences
