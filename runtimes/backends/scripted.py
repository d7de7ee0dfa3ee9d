"""A runtime without a model: its logits follow a script. For tests of loops, policies and servers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codegen_edge.bundle.model_config import ModelConfig
from codegen_edge.errors import BackendError, CancelledError, InvalidInputError
from codegen_edge.runtimes.runtime import KVCache, Logits, TokenIds
from codegen_edge.runtimes.step_input import check_step

Script = Callable[[tuple[int, ...]], NDArray[np.float32]]


def script_of_tokens(tokens: Sequence[int], vocab_size: int, prompt_length: int) -> Script:
    """A script whose greedy continuation of any prompt of `prompt_length` tokens is `tokens`, over and over."""

    def logits_after(sequence: tuple[int, ...]) -> NDArray[np.float32]:
        logits = np.zeros(vocab_size, np.float32)
        logits[tokens[(len(sequence) - prompt_length) % len(tokens)]] = 10.0
        return logits

    return logits_after


class ScriptedCache:
    """Remembers the tokens of every row and nothing else."""

    def __init__(self, batch_size: int, capacity: int) -> None:
        self.capacity = capacity
        self.sequences: list[list[int]] = [[] for _ in range(batch_size)]
        self.interrupted = False
        self.reserved = batch_size

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[B] tokens that each row holds."""
        return np.array([len(sequence) for sequence in self.sequences], np.int64)

    def rewind(self, row: int, length: int) -> None:
        """Forget the tokens of `row` beyond the first `length`."""
        if not 0 <= length <= len(self.sequences[row]):
            raise InvalidInputError(f"cannot rewind row {row} to {length}")
        del self.sequences[row][length:]

    def select(self, rows: Sequence[int], shared: int = 0) -> None:
        """Make the batch `rows` of what it was."""
        self.sequences = [list(self.sequences[row]) for row in rows]

    def join(self, other: KVCache, rows: Sequence[int] | None = None) -> None:
        """Append rows of another cache."""
        assert isinstance(other, ScriptedCache)
        if rows is None:
            self.capacity = max(self.capacity, other.capacity)
        elif any(other.lengths[row] > self.capacity for row in rows):
            raise InvalidInputError(f"a row that joins holds more than the cache's capacity of {self.capacity} tokens")
        joining = range(len(other.sequences)) if rows is None else rows
        self.sequences += [list(other.sequences[row]) for row in joining]

    def reserve(self, rows: int) -> None:
        """Note it."""
        self.reserved = max(self.reserved, rows)

    def read_row(self, row: int) -> dict[str, NDArray[Any]]:
        """The tokens, as the only thing that a row holds."""
        return {"tokens": np.array(self.sequences[row], np.int64)}

    def write_row(self, row: int, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Make a row hold the tokens that `read_row` gave."""
        if tensors.keys() != {"tokens"} or len(tensors["tokens"]) > self.capacity:
            raise InvalidInputError("these keys and values are of another model, or do not fit the cache")
        self.sequences[row] = [int(token_id) for token_id in tensors["tokens"]]

    def interrupt(self) -> None:
        """Make the step in flight, or the next one, raise CancelledError."""
        self.interrupted = True


class ScriptedRuntime:
    """Logits from a function of the whole sequence; records the shape [B, T] of every step in `steps`.

    Args:
        script: gives the [V] float32 logits after a sequence of token ids.
        vocab_size: V.
        context_length: the longest sequence.
        before_step: called with the step's number (from 0) before it computes; may block or raise.
    """

    name = "scripted"

    def __init__(
        self,
        script: Script,
        *,
        vocab_size: int,
        context_length: int = 2048,
        eos_token_id: int = 0,
        before_step: Callable[[int], None] | None = None,
    ) -> None:
        self.config = ModelConfig(
            vocab_size=vocab_size,
            context_length=context_length,
            num_layers=1,
            num_heads=4,
            head_dim=16,
            rotary_dim=16,
            inner_size=64,
            eos_token_id=eos_token_id,
        )
        self.steps: list[tuple[int, int]] = []
        self.is_closed = False
        self._script = script
        self._before_step = before_step

    def new_cache(self, batch_size: int, capacity: int) -> ScriptedCache:
        """Empty rows."""
        return ScriptedCache(batch_size, capacity)

    def step(
        self,
        token_ids: TokenIds,
        cache: KVCache,
        *,
        counts: NDArray[np.int64] | None = None,
        all_logits: bool = False,
    ) -> Logits:
        """Append tokens and return what the script says; see `Runtime.step`."""
        assert isinstance(cache, ScriptedCache)
        if self.is_closed:
            raise BackendError("the scripted runtime was closed")
        counts = check_step(token_ids, cache, counts, self.config.vocab_size)
        if self._before_step is not None:
            self._before_step(len(self.steps))
        before = cache.lengths
        logits = np.zeros((*token_ids.shape, self.config.vocab_size), np.float32)
        for row, count in enumerate(counts):
            for position in range(count):
                if cache.interrupted:
                    cache.interrupted = False
                    for each, length in enumerate(before):
                        cache.rewind(each, int(length))
                    raise CancelledError("the step was cancelled")
                cache.sequences[row].append(int(token_ids[row, position]))
                logits[row, position] = self._script(tuple(cache.sequences[row]))
        self.steps.append((token_ids.shape[0], token_ids.shape[1]))
        return logits if all_logits else logits[np.arange(len(counts)), counts - 1]

    def close(self) -> None:
        """Refuse further steps."""
        self.is_closed = True
