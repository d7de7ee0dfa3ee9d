"""Texts as tokens, and what a model's logits say of them, through the cached path that generation takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from codegen_edge.errors import InvalidInputError, NumericsError
from codegen_edge.runtimes.runtime import Logits, Runtime
from codegen_edge.tokenizer import Tokenizer

_MOST_TOKENS_OF_A_STEP = 128  # 128 x 51,200 logits are 26 MB
_LEAST_TOKENS = 256  # of a document that a sample takes


def spread_sample(documents: Sequence[NDArray[np.int64]], max_tokens: int | None) -> list[NDArray[np.int64]]:
    """The beginnings of documents, evenly spread over them, that hold about `max_tokens` tokens to predict.

    The first documents alone would stand for all of them, whoever wrote those. A beginning has at least _LEAST_TOKENS,
    so that most tokens have a past; where that is too many for all documents, fewer of them are taken.
    """
    documents = [document for document in documents if len(document) > 1]
    if max_tokens is None or not documents:
        return list(documents)
    count = min(len(documents), max(1, max_tokens // _LEAST_TOKENS))
    chosen = [documents[place * len(documents) // count] for place in range(count)]
    # What short documents leave over goes to the others.
    left, ends = max_tokens, [0] * count
    for rank, place in enumerate(sorted(range(count), key=lambda each: len(chosen[each]))):
        ends[place] = min(len(chosen[place]) - 1, -(-left // (count - rank)))
        left -= ends[place]
    return [document[: end + 1] for document, end in zip(chosen, ends, strict=True) if end]


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


def negative_log_likelihood(
    logits: Logits, targets: NDArray[np.int64], totals: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """[T] nats that each target costs under softmax(logits).

    Args:
        logits: [T, V].
        targets: [T] ids.
        totals: [T] what `log_sum_exp` gives for the logits, where that is known.

    Raises:
        NumericsError: a logit is NaN or infinite.
    """
    if not np.isfinite(logits).all():
        raise NumericsError("the model's logits hold NaN or infinity; the text cannot be scored")
    chosen = logits[np.arange(len(targets)), targets].astype(np.float64)
    return (log_sum_exp(logits) if totals is None else totals) - chosen


def log_sum_exp(logits: Logits) -> NDArray[np.float64]:
    """[T] log of the sum of exponentials over the vocabulary, from logits [T, V]; summed in float64."""
    largest = logits.max(axis=-1, keepdims=True)
    total = np.exp(logits - largest).sum(axis=-1, dtype=np.float64)
    result: NDArray[np.float64] = np.log(total) + largest[:, 0]
    return result
