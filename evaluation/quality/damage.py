"""What quantizing did to a model: its distributions against those of the float model, over held-out text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.quality.intervals import Interval, bootstrap_interval, shown_interval
from codegen_edge.evaluation.quality.metrics import Metric, MetricInput
from codegen_edge.evaluation.quality.scoring import (
    document_ids,
    log_sum_exp,
    negative_log_likelihood,
    spread_sample,
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
        perplexity, reference_perplexity: per token.
        num_documents: texts that the tokens are of.
        perplexity_loss_interval, mean_kl_interval, top1_interval: 95% over documents; None for a single one.
    """

    num_tokens: int
    mean_kl: float
    max_kl: float
    max_abs_error: float
    top1_agreement: float
    perplexity: float
    reference_perplexity: float
    num_documents: int = 1
    perplexity_loss_interval: Interval | None = None
    mean_kl_interval: Interval | None = None
    top1_interval: Interval | None = None

    @property
    def perplexity_loss(self) -> float:
        """Perplexity over the reference's, less 1; 0.01 is one percent worse."""
        return self.perplexity / self.reference_perplexity - 1

    @property
    def summary(self) -> str:
        """In a line."""
        return damage_line(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"perplexity_loss": self.perplexity_loss}


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
        max_tokens: about how many tokens to predict, spread over all documents; None reads all of them.

    Raises:
        InvalidInputError: there is no text.
        NumericsError: a logit is NaN or infinite.
    """
    rows: list[list[float]] = []  # by document: tokens, nll, the reference's, divergence, tokens that agree
    max_kl = max_abs_error = 0.0
    for token_ids in spread_sample([document_ids(tokenizer, text) for text in documents], max_tokens):
        row = np.zeros(5)
        steps = zip(teacher_forced(candidate, token_ids), teacher_forced(reference, token_ids), strict=True)
        for (targets, actual), (_, expected) in steps:
            totals = (log_sum_exp(expected), log_sum_exp(actual))
            difference = expected - actual
            divergences = _kl_divergences(expected, difference, *totals)
            max_kl = max(max_kl, float(divergences.max()))
            max_abs_error = max(max_abs_error, float(difference.max()), -float(difference.min()))
            row += (
                len(targets),
                negative_log_likelihood(actual, targets, totals[1]).sum(),
                negative_log_likelihood(expected, targets, totals[0]).sum(),
                divergences.sum(),
                (expected.argmax(axis=-1) == actual.argmax(axis=-1)).sum(),
            )
        rows.append(row.tolist())
    if not rows:
        raise InvalidInputError("there is no text to measure on")
    sums = np.array(rows)
    count, nll, reference_nll, total_kl, agreed = sums.sum(axis=0).tolist()
    return Damage(
        num_tokens=int(count),
        mean_kl=total_kl / count,
        max_kl=max_kl,
        max_abs_error=max_abs_error,
        top1_agreement=agreed / count,
        perplexity=math.exp(nll / count),
        reference_perplexity=math.exp(reference_nll / count),
        num_documents=len(sums),
        perplexity_loss_interval=bootstrap_interval(sums, lambda t: np.exp((t[..., 1] - t[..., 2]) / t[..., 0]) - 1),
        mean_kl_interval=bootstrap_interval(sums, lambda t: t[..., 3] / t[..., 0]),
        top1_interval=bootstrap_interval(sums, lambda t: t[..., 4] / t[..., 0]),
    )


def kl_divergences(expected: Logits, actual: Logits) -> NDArray[np.float64]:
    """[T] KL(softmax(expected) || softmax(actual)) in nats, from logits [T, V]."""
    return _kl_divergences(expected, expected - actual, log_sum_exp(expected), log_sum_exp(actual))


def _kl_divergences(
    expected: Logits, difference: Logits, expected_total: NDArray[np.float64], actual_total: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The same, where the difference of the logits and the logarithms of both sums of exponentials are known.

    sum(p (log p - log q)) = sum(p (x - y)) - log sum exp x + log sum exp y: one pass over the vocabulary.
    """
    probabilities = np.exp(expected - expected_total[:, None].astype(np.float32))
    means: NDArray[np.float64] = np.einsum("tv,tv->t", probabilities, difference, dtype=np.float64)
    means /= probabilities.sum(axis=-1, dtype=np.float64)  # float32 rounds the logarithm
    divergences: NDArray[np.float64] = means - expected_total + actual_total
    np.maximum(divergences, 0.0, out=divergences)
    return divergences


def damage_line(damage: dict[str, Any] | None) -> str:
    """What quantizing did to the model, in a line; from `to_dict`, which a report keeps."""
    if damage is None:
        return "damage not measured"
    loss = shown_interval(damage.get("perplexity_loss_interval"), "+.2%")
    return (
        f"perplexity {damage['perplexity']:.3f} against {damage['reference_perplexity']:.3f} "
        f"({damage['perplexity_loss']:+.2%}{loss}), "
        f"KL {damage['mean_kl']:.1e}{shown_interval(damage.get('mean_kl_interval'), '.1e')}, "
        f"top-1 {damage['top1_agreement']:.2%}{shown_interval(damage.get('top1_interval'), '.2%')}"
    )


def _measure(given: MetricInput) -> Damage:
    assert given.reference is not None
    return measure_damage(
        given.candidate, given.reference, given.tokenizer, given.documents, max_tokens=given.max_tokens
    )


METRIC = Metric(measure=_measure, needs_reference=True)
