"""How well a model predicts text: perplexity and bits per byte."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.quality.intervals import Interval, bootstrap_interval, shown_interval
from codegen_edge.evaluation.quality.metrics import Metric, MetricInput
from codegen_edge.evaluation.quality.scoring import (
    document_ids,
    negative_log_likelihood,
    spread_sample,
    teacher_forced,
)
from codegen_edge.runtimes.runtime import Runtime
from codegen_edge.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Perplexity:
    """What predicting a text cost.

    Attributes:
        num_documents: texts that were predicted.
        num_tokens: predicted tokens.
        num_bytes: bytes of UTF-8 that they stand for.
        nll: negative log-likelihood of all of them, in nats.
        perplexity_interval, bits_per_byte_interval: 95% over documents; None for a single one.
    """

    num_documents: int
    num_tokens: int
    num_bytes: int
    nll: float
    perplexity_interval: Interval | None = None
    bits_per_byte_interval: Interval | None = None

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-likelihood of a token; depends on the tokenizer."""
        return math.exp(self.nll / self.num_tokens)

    @property
    def bits_per_byte(self) -> float:
        """Negative log-likelihood in bits, per byte of text; comparable between tokenizers."""
        return self.nll / math.log(2) / self.num_bytes

    @property
    def summary(self) -> str:
        """In a line."""
        return (
            f"perplexity {self.perplexity:.3f}{shown_interval(self.perplexity_interval, '.3f')} per token, "
            f"{self.bits_per_byte:.4f}{shown_interval(self.bits_per_byte_interval, '.4f')} bits per byte, over "
            f"{self.num_tokens:,} tokens of {self.num_documents} texts ({self.num_bytes:,} bytes)"
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "perplexity": self.perplexity,
            "bits_per_byte": self.bits_per_byte,
            "perplexity_interval": self.perplexity_interval,
            "bits_per_byte_interval": self.bits_per_byte_interval,
            "num_documents": self.num_documents,
            "num_tokens": self.num_tokens,
            "num_bytes": self.num_bytes,
        }


def measure_perplexity(
    runtime: Runtime,
    tokenizer: Tokenizer,
    documents: Iterable[str],
    *,
    on_progress: Callable[[int], None] | None = None,
) -> Perplexity:
    """Predict every token of `documents`, each text by itself after an `<|endoftext|>`.

    Args:
        runtime: of a model with this tokenizer.
        tokenizer: of the model.
        documents: texts; empty ones are passed over.
        on_progress: called with the number of documents that are done.

    Raises:
        InvalidInputError: the tokenizer has no `<|endoftext|>`, or there is no text at all.
        NumericsError: a logit is NaN or infinite.
    """
    rows: list[tuple[float, float, float]] = []  # by document: tokens, bytes, nats
    for text in documents:
        token_ids = document_ids(tokenizer, text)
        nll = sum(
            float(negative_log_likelihood(logits, targets).sum())
            for targets, logits in teacher_forced(runtime, token_ids)
        )
        rows.append((len(token_ids) - 1, len(text.encode()), nll))
        if on_progress is not None:
            on_progress(len(rows))
    sums = np.array([row for row in rows if row[0]])
    if not len(sums):
        raise InvalidInputError("there is no text to predict")
    num_tokens, num_bytes, nll = sums.sum(axis=0).tolist()
    return Perplexity(
        num_documents=len(rows),
        num_tokens=int(num_tokens),
        num_bytes=int(num_bytes),
        nll=nll,
        perplexity_interval=bootstrap_interval(sums, lambda t: np.exp(t[..., 2] / t[..., 0])),
        bits_per_byte_interval=bootstrap_interval(sums, lambda t: t[..., 2] / math.log(2) / t[..., 1]),
    )


def _measure(given: MetricInput) -> Perplexity:
    documents = list(given.documents)
    if given.max_tokens is not None:
        sampled = spread_sample([document_ids(given.tokenizer, text) for text in documents], given.max_tokens)
        documents = [given.tokenizer.decode(token_ids[1:].tolist()) for token_ids in sampled]
    return measure_perplexity(given.candidate, given.tokenizer, documents, on_progress=given.on_document)


METRIC = Metric(measure=_measure)
