"""Log-likelihoods of continuations, several rows per step, through the KV cache that generation uses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from codegen_edge.errors import ContextLengthError, InvalidInputError
from codegen_edge.evaluation.quality.scoring import negative_log_likelihood
from codegen_edge.runtimes.runtime import KVCache, Logits, Runtime

_MOST_LOGITS_BYTES = 64 * 1024 * 1024  # of a step: 327 tokens of all rows together, with CodeGen's 51,200 ids
_MOST_READ = 512  # tokens of all rows together, in a step that gives no logits but each row's last


@dataclass(frozen=True, slots=True)
class Pair:
    """A context and what follows it, as token ids; neither is empty."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


@dataclass(slots=True)
class Score:
    """Of a continuation.

    Attributes:
        log_likelihood: in nats, of all its tokens.
        is_greedy: whether each token is the likeliest one at its place.
    """

    log_likelihood: float = 0.0
    is_greedy: bool = True


@dataclass(slots=True, eq=False)
class _Row:
    """What the model reads, and the pairs that are scored on it: they differ in their last token at most.

    Attributes:
        inputs: token ids; the last token of a pair is not among them.
        start: the first input whose logits are wanted.
        targets: by pair (its place among all pairs), the tokens that are to follow the inputs from `start` on.
    """

    inputs: tuple[int, ...]
    start: int
    targets: list[tuple[int, np.ndarray[tuple[int], np.dtype[np.int64]]]] = field(default_factory=list)


def score_pairs(runtime: Runtime, pairs: Sequence[Pair], *, batch_size: int = 1) -> Iterator[list[tuple[int, Score]]]:
    """Score every pair; longest first, pairs of one context beside one another.

    What all rows of a batch begin with is read once: the choices of a question cost its context once. Pairs that differ
    in their last token only are one row.

    Args:
        runtime: steps the model.
        pairs: a context that is too long loses its beginning, as in lm-eval's own classes.
        batch_size: most rows of a step.

    Yields:
        For each batch its pairs' places in `pairs`, with their scores.

    Raises:
        InvalidInputError: an empty context or continuation, or an id that the model lacks.
        ContextLengthError: a continuation alone is longer than the model's context.
        NumericsError: a logit is NaN or infinite.
    """
    rows = _rows(pairs, runtime.config.context_length)
    for begin in range(0, len(rows), batch_size):
        yield _scores(runtime, rows[begin : begin + batch_size])


def _rows(pairs: Sequence[Pair], context_length: int) -> list[_Row]:
    rows: dict[tuple[tuple[int, ...], int], _Row] = {}
    for place, pair in enumerate(pairs):
        if not pair.context or not pair.continuation:
            raise InvalidInputError(f"pair {place} has an empty context or continuation")
        if len(pair.continuation) > context_length:
            raise ContextLengthError(
                f"a continuation of {len(pair.continuation)} tokens is longer than the model's context of "
                f"{context_length}"
            )
        inputs = (pair.context + pair.continuation)[-(context_length + 1) : -1]
        start = len(inputs) - len(pair.continuation)
        targets = np.array(pair.continuation, np.int64)
        rows.setdefault((inputs, start), _Row(inputs, start)).targets.append((place, targets))
    # Those with the same beginning meet: by the length of their contexts, then by their tokens.
    return sorted(rows.values(), key=lambda row: (-row.start, row.inputs))


def _scores(runtime: Runtime, rows: list[_Row]) -> list[tuple[int, Score]]:
    """One batch: the common beginning in one row, then all rows, of which the short ones leave early."""
    rows = sorted(rows, key=lambda row: -len(row.inputs))
    scores = {place: Score() for row in rows for place, _ in row.targets}
    cache = runtime.new_cache(1, len(rows[0].inputs))
    position = _read_shared(runtime, cache, rows)
    cache.select([0] * len(rows), position)
    while rows := _going(rows, cache, position):
        first = min(row.start for row in rows)
        is_scored = first <= position
        count = _scored_count(runtime, rows) if is_scored else min(first - position, max(1, _MOST_READ // len(rows)))
        logits = _step(runtime, cache, rows, position, count, all_logits=is_scored)
        if is_scored:
            for row, row_logits in zip(rows, logits, strict=True):
                _add(scores, row, row_logits, position)
        position += count
    return list(scores.items())


def _read_shared(runtime: Runtime, cache: KVCache, rows: Sequence[_Row]) -> int:
    """Read what all rows begin with, up to the first logits that are wanted; its length."""
    end = min(row.start for row in rows)
    first, last = min(row.inputs for row in rows), max(row.inputs for row in rows)
    shared = next((place for place in range(end) if first[place] != last[place]), end)
    for begin in range(0, shared, _MOST_READ):
        chunk = np.array([rows[0].inputs[begin : min(begin + _MOST_READ, shared)]], np.int64)
        runtime.step(chunk, cache)
    return shared


def _going(rows: list[_Row], cache: KVCache, position: int) -> list[_Row]:
    """The rows that have inputs left; they are ordered by length, the longest first."""
    num_going = sum(len(row.inputs) > position for row in rows)
    if num_going < len(rows):
        cache.select(range(num_going))
    return rows[:num_going]


def _scored_count(runtime: Runtime, rows: Sequence[_Row]) -> int:
    """Tokens of every row in a step that gives all their logits."""
    return max(1, _MOST_LOGITS_BYTES // (4 * runtime.config.vocab_size * len(rows)))


def _step(
    runtime: Runtime, cache: KVCache, rows: Sequence[_Row], position: int, count: int, *, all_logits: bool
) -> Logits:
    counts = np.array([min(count, len(row.inputs) - position) for row in rows], np.int64)
    token_ids = np.zeros((len(rows), int(counts.max())), np.int64)
    for place, row in enumerate(rows):
        token_ids[place, : counts[place]] = row.inputs[position : position + counts[place]]
    return runtime.step(token_ids, cache, counts=counts, all_logits=all_logits)


def _add(scores: dict[int, Score], row: _Row, logits: Logits, position: int) -> None:
    """Add what logits [T, V] from `position` on say of the row's targets."""
    begin, end = max(row.start, position), min(len(row.inputs), position + len(logits))
    if begin >= end:
        return
    wanted = logits[begin - position : end - position]
    likeliest = wanted.argmax(axis=-1)
    for place, targets in row.targets:
        own = targets[begin - row.start : end - row.start]
        scores[place].log_likelihood -= float(negative_log_likelihood(wanted, own).sum())
        scores[place].is_greedy &= bool((likeliest == own).all())
