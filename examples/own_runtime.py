"""Write a runtime of your own and load a bundle with it: n-grams in numpy, which continue a text as it went before.

`Runtime` and `KVCache` are all that generation asks for, so batches, sessions, sampling and drafts work with this
runtime as with the built-in ones. It uses only the tokenizer and the vocabulary size of the bundle:

    python examples/own_runtime.py my-bundle
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

import codegen_edge
from codegen_edge.errors import BackendError, CancelledError, InvalidInputError
from codegen_edge.runtimes import RUNTIMES, KVCache, Logits, TokenIds, check_step

PROMPT = "for name in names:\n    print(name)\nfor name in"


class NgramCache:
    """Its past is the tokens themselves."""

    def __init__(self, batch_size: int, capacity: int) -> None:
        self.capacity = capacity
        self.rows: list[list[int]] = [[] for _ in range(batch_size)]
        self.is_interrupted = False

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.array([len(row) for row in self.rows], np.int64)

    def rewind(self, row: int, length: int) -> None:
        if not 0 <= length <= len(self.rows[row]):
            raise InvalidInputError(f"row {row} has {len(self.rows[row])} tokens, it cannot be rewound to {length}")
        del self.rows[row][length:]

    def select(self, rows: Sequence[int], shared: int = 0) -> None:
        self.rows = [list(self.rows[row]) for row in rows]

    def join(self, other: KVCache, rows: Sequence[int] | None = None) -> None:
        assert isinstance(other, NgramCache)
        joining = range(len(other.rows)) if rows is None else rows
        if rows is None:
            self.capacity = max(self.capacity, other.capacity)
        elif any(len(other.rows[row]) > self.capacity for row in rows):
            raise InvalidInputError(f"a row that joins holds more than {self.capacity} tokens")
        self.rows += [list(other.rows[row]) for row in joining]

    def reserve(self, rows: int) -> None:
        pass  # lists grow by themselves

    def read_row(self, row: int) -> dict[str, NDArray[Any]]:
        return {"token_ids": np.array(self.rows[row], np.int64)}

    def write_row(self, row: int, tensors: Mapping[str, NDArray[Any]]) -> None:
        if tensors.keys() != {"token_ids"} or len(tensors["token_ids"]) > self.capacity:
            raise InvalidInputError(f"these are not the token_ids of a row, or do not fit {self.capacity} tokens")
        self.rows[row] = tensors["token_ids"].tolist()

    def interrupt(self) -> None:
        self.is_interrupted = True


class NgramRuntime:
    """The logit of a token grows with how often, and after how long a match, it followed the text's last tokens.

    Args:
        bundle: for the size of the vocabulary.
        order: the longest match that is looked for, in tokens.
    """

    name = "ngram"

    def __init__(self, bundle: codegen_edge.Bundle, *, order: int = 4) -> None:
        self.config = bundle.manifest.model
        self._order = order
        self._is_closed = False

    def new_cache(self, batch_size: int, capacity: int) -> NgramCache:
        return NgramCache(batch_size, capacity)

    def step(
        self,
        token_ids: TokenIds,
        cache: KVCache,
        *,
        counts: NDArray[np.int64] | None = None,
        all_logits: bool = False,
    ) -> Logits:
        assert isinstance(cache, NgramCache)
        if self._is_closed:
            raise BackendError("the ngram runtime was closed")
        counts = check_step(token_ids, cache, counts, self.config.vocab_size)  # refuses what every runtime refuses
        rows: list[list[int]] = []  # the cache gets them at the end: a step that is interrupted changes nothing
        logits = np.zeros((*token_ids.shape, self.config.vocab_size), np.float32)  # [B, T, V]
        for row, (past, count) in enumerate(zip(cache.rows, counts, strict=True)):
            rows.append(past + token_ids[row, :count].tolist())
            for position in range(count):
                if cache.is_interrupted:
                    cache.is_interrupted = False
                    raise CancelledError("the step was cancelled")
                logits[row, position] = self._logits_after(np.array(rows[row][: len(past) + position + 1]))
        cache.rows = rows
        return logits if all_logits else logits[np.arange(len(rows)), counts - 1]  # [B, T, V] -> [B, V]

    def _logits_after(self, sequence: NDArray[np.int64]) -> NDArray[np.float32]:
        logits = np.zeros(self.config.vocab_size, np.float32)
        logits[self.config.eos_token_id] = 1.0  # the choice where nothing matches
        for length in range(1, min(self._order, len(sequence) - 1) + 1):
            earlier = sliding_window_view(sequence[:-1], length)  # [N] -> [N - length, length]
            matches = (earlier == sequence[-length:]).all(axis=1)
            np.add.at(logits, sequence[length:][matches], 4.0**length)
        return logits

    def close(self) -> None:
        self._is_closed = True


def main(bundle: str) -> None:
    """Register the runtime and generate with it.

    Args:
        bundle: a folder for text generation.
    """
    RUNTIMES.register("ngram", f"{__name__}:NgramRuntime")
    # `order` is an option of this runtime: load_model hands it on.
    with codegen_edge.load_model(bundle, runtime="ngram", order=8) as model:
        print(PROMPT + model.generate(PROMPT, max_new_tokens=24).text)


if __name__ == "__main__":
    main(*sys.argv[1:])
