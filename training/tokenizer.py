"""Training the checkpoint's own tokenizer."""

from __future__ import annotations

import re

from tokenizers import Tokenizer

from codegen_edge.exporter.random_checkpoint import small_tokenizer

# The tokenizer takes these out as tokens of their own before byte-level BPE sees the text: it must not learn them.
_RUNS = re.compile(r" {2,}|\t{2,}")


def train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE of CodeGen's structure; `vocab_size` counts neither `<|endoftext|>` nor the runs."""
    pieces = (piece for text in texts for piece in _RUNS.split(text) if piece)
    return small_tokenizer(pieces, vocab_size)
