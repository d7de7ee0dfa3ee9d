"""The text that is trained on: as ids, and in which order it comes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from codegen_edge.errors import InvalidInputError
from codegen_edge.tokenizer import END_OF_TEXT
from training.settings import TrainingSettings

_PROMPT_CHARACTERS = 32  # within which a short row's text is cut

# As byte-level BPE writes them; runs of spaces and tabs are written as they are.
_NEWLINE, _WHITESPACE = "Ċ", "ĊĠĉ \t"


@dataclass(frozen=True, slots=True)
class TrainingText:
    """Text as ids.

    Attributes:
        tokenizer: that made the ids.
        documents: `<|endoftext|>` and the ids of each text.
        statement_starts: [N] where in the joined documents a line begins at the left margin, or a file.
    """

    tokenizer: Tokenizer
    documents: list[NDArray[np.int64]]
    statement_starts: NDArray[np.int64]


def encode(tokenizer: Tokenizer, texts: list[str]) -> TrainingText:
    """Encode the texts of a split."""
    end_of_text_id = tokenizer.token_to_id(END_OF_TEXT)
    documents = [
        np.array([end_of_text_id, *encoding.ids], np.int64)
        for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    ]
    ends_line = np.zeros(tokenizer.get_vocab_size(), bool)
    is_margin = np.zeros_like(ends_line)  # whether what begins with this token stands at the margin
    for token, token_id in tokenizer.get_vocab(with_added_tokens=True).items():
        ends_line[token_id] = token.endswith(_NEWLINE)
        is_margin[token_id] = token[0] not in _WHITESPACE
    ends_line[end_of_text_id] = True
    stream = np.concatenate(documents)
    begins_statement = ends_line[stream[:-1]] & is_margin[stream[1:]]
    starts = np.flatnonzero(begins_statement) + 1
    return TrainingText(tokenizer, documents, starts)


def byte_counts(tokenizer: Tokenizer, vocab_size: int) -> torch.Tensor:
    """[V] int64, the bytes that each id stands for: in byte-level BPE every letter of a token is one byte."""
    counts = torch.zeros(vocab_size, dtype=torch.int64)
    for token, token_id in tokenizer.get_vocab(with_added_tokens=True).items():
        counts[token_id] = 0 if token == END_OF_TEXT else len(token)
    return counts


def pack(documents: Iterable[NDArray[np.int64]], length: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Join `documents` in random order, cut them to rows [N, length + 1] that overlap by a token, and mix those."""
    shuffled = list(documents)
    generator.shuffle(shuffled)
    stream = np.concatenate(shuffled)
    num_rows = (len(stream) - 1) // length
    if num_rows < 1:
        raise InvalidInputError(f"a split of {len(stream)} tokens is less than one row of {length}")
    starts = np.arange(num_rows) * length
    generator.shuffle(starts)
    rows: NDArray[np.int64] = stream[starts[:, None] + np.arange(length + 1)]
    return rows


def batches(text: TrainingText, settings: TrainingSettings, first: int) -> Iterator[NDArray[np.int64]]:
    """The batches [B, T + 1] of steps `first`, `first` + 1, …; which text a step sees depends on the seed alone."""
    long = _long_batches(text.documents, settings)
    stream = np.concatenate(text.documents)
    for step in itertools.count():
        if not settings.is_short(step):
            batch = next(long)
            if step >= first:
                yield batch
        elif step >= first:
            yield _short_batch(text, stream, settings, np.random.default_rng((settings.seed, step, 1)))


def _short_batch(
    text: TrainingText, stream: NDArray[np.int64], settings: TrainingSettings, generator: np.random.Generator
) -> NDArray[np.int64]:
    """[B', short_length + 1] with as many tokens as a batch of long rows, each begun at a statement and tokenized as if
    its first characters were the prompt."""
    length = settings.short_length + 1
    source = 2 * length  # a text cut in two may make fewer tokens, never half
    starts = text.statement_starts[text.statement_starts < len(stream) - source]
    if not len(starts):
        raise InvalidInputError(f"the training text has no statement with {source} tokens behind it")
    rows = []
    for start in generator.choice(starts, settings.tokens_per_step // settings.short_length):
        ids = stream[start : start + source]
        characters = text.tokenizer.decode(ids.tolist(), skip_special_tokens=False)
        cut = _prompt_end(characters, generator)
        parts = text.tokenizer.encode_batch_fast([characters[:cut], characters[cut:]], add_special_tokens=False)
        rows.append([*parts[0].ids, *parts[1].ids][:length])
    return np.array(rows, np.int64)


def _prompt_end(characters: str, generator: np.random.Generator) -> int:
    """Where a prompt that begins these characters might end: one time in two behind a space."""
    spaces = [n for n, character in enumerate(characters[:_PROMPT_CHARACTERS], 1) if character == " "]
    if spaces and generator.random() < 0.5:
        return int(generator.choice(spaces))
    return int(generator.integers(1, _PROMPT_CHARACTERS + 1))


def _long_batches(documents: list[NDArray[np.int64]], settings: TrainingSettings) -> Iterator[NDArray[np.int64]]:
    for epoch in itertools.count():
        rows = pack(documents, settings.n_positions, np.random.default_rng((settings.seed, epoch)))
        if len(rows) < settings.batch_size:
            raise InvalidInputError(f"the training text makes {len(rows)} rows, fewer than a batch")
        for start in range(0, len(rows) - settings.batch_size + 1, settings.batch_size):
            yield rows[start : start + settings.batch_size]
