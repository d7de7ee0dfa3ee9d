"""How well a model predicts text: perplexity and bits per byte, through the cached path that generation takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codegen_edge.errors import InvalidInputError, NumericsError
from codegen_edge.evaluation.quality.intervals import Interval, bootstrap_interval
from codegen_edge.runtimes.runtime import Logits, Runtime
from codegen_edge.tokenizer import Tokenizer

_MOST_TOKENS_OF_A_STEP = 128  # 128 x 51,200 logits are 26 MB


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


def document_ids(tokenizer: Tokenizer, text: str) -> NDArray[np.int64]:
    """`<|endoftext|>` and the ids of `text`, [N] int64."""
    if tokenizer.end_of_text_id is None:
        raise InvalidInputError("the tokenizer has no <|endoftext|> to begin a text with")
    return np.array([tokenizer.end_of_text_id, *tokenizer.encode(text)], np.int64)


def teacher_forced(runtime: Runtime, token_ids: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Logits]]:
    """The logits that predict `token_ids[1:]`, each one once.

    A text longer than the context is read in windows that advance by half a context, so that every token has at
    least half a context of past (or all there is); the past is fed first, and what is predicted on top of its cache.

    Args:
        runtime: steps the model.
        token_ids: [N] int64.

    Yields:
        Targets [T] and the logits [T, V] that predict them.
    """
    context, num_inputs = runtime.config.context_length, len(token_ids) - 1
    for start, first, end in _windows(num_inputs, context):
        cache = runtime.new_cache(1, context)
        for begin in range(start, end, _MOST_TOKENS_OF_A_STEP):
            stop = min(begin + _MOST_TOKENS_OF_A_STEP, end)
            logits = runtime.step(token_ids[None, begin:stop], cache, all_logits=True)[0]
            skipped = max(first - begin, 0)  # the past, which an earlier window predicted
            if skipped < len(logits):
                yield token_ids[begin + skipped + 1 : stop + 1], logits[skipped:]


def _windows(num_inputs: int, context: int) -> Iterator[tuple[int, int, int]]:
    """Where a window's past starts, its predictions start, and it ends."""
    end = min(num_inputs, context)
    if end:
        yield 0, 0, end
    half = max(1, context // 2)
    while end < num_inputs:
        first, end = end, min(end + half, num_inputs)
        yield first - (context - half), first, end


def negative_log_likelihood(logits: Logits, targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """[T] nats that each target costs under softmax(logits), from logits [T, V].

    Raises:
        NumericsError: a logit is NaN or infinite.
    """
    if not np.isfinite(logits).all():
        raise NumericsError("the model's logits hold NaN or infinity; the text cannot be scored")
    chosen = logits[np.arange(len(targets)), targets].astype(np.float64)
    return log_sum_exp(logits) - chosen


def log_sum_exp(logits: Logits) -> NDArray[np.float64]:
    """[T] log of the sum of exponentials over the vocabulary, from logits [T, V]; summed in float64."""
    largest = logits.max(axis=-1, keepdims=True)
    total = np.exp(logits - largest).sum(axis=-1, dtype=np.float64)
    result: NDArray[np.float64] = np.log(total) + largest[:, 0]
    return result
