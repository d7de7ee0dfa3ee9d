"""transformers' own CodeGenForCausalLM in float32 as a runtime: the truth that exports are compared with."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codegen_edge.bundle import contract
from codegen_edge.bundle.model_config import ModelConfig
from codegen_edge.dependencies import installed_version, proved_versions
from codegen_edge.errors import BackendError, CancelledError, IncompatibleVersionError, InvalidInputError
from codegen_edge.runtimes.runtime import KVCache, Logits, TokenIds
from codegen_edge.runtimes.step_input import check_step

_CACHE_ARGUMENTS = ("cache", "past_key_values")  # of transformers from 5.24 on, and before


class ReferenceCache:
    """One transformers cache a row, so that no row ever sees padding or another row."""

    def __init__(self, batch_size: int, capacity: int) -> None:
        from transformers import DynamicCache

        self.capacity = capacity
        self.rows: list[Any] = [DynamicCache() for _ in range(batch_size)]
        self.interrupted = False

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[B] tokens that each row holds."""
        return np.array([row.get_seq_length() for row in self.rows], np.int64)

    def rewind(self, row: int, length: int) -> None:
        """Forget what row `row` holds beyond its first `length` tokens."""
        if not 0 <= length <= self.lengths[row]:
            raise InvalidInputError(f"row {row} holds {self.lengths[row]} tokens, cannot rewind it to {length}")
        if length < self.lengths[row]:
            self.rows[row].crop(length - int(self.lengths[row]))  # negative: how many tokens to drop

    def select(self, rows: Sequence[int], shared: int = 0) -> None:
        """Make the batch `rows` of what it was."""
        self.rows = [
            self.rows[row] if rows.index(row) == new else deepcopy(self.rows[row]) for new, row in enumerate(rows)
        ]

    def join(self, other: KVCache, rows: Sequence[int] | None = None) -> None:
        """Append rows of another cache."""
        assert isinstance(other, ReferenceCache)
        if rows is None:
            self.capacity = max(self.capacity, other.capacity)
        elif any(other.lengths[row] > self.capacity for row in rows):
            raise InvalidInputError(f"a row that joins holds more than the cache's capacity of {self.capacity} tokens")
        self.rows += [deepcopy(other.rows[row]) for row in (range(len(other.rows)) if rows is None else rows)]

    def reserve(self, rows: int) -> None:
        """Nothing is allocated before tokens come."""

    def read_row(self, row: int) -> dict[str, NDArray[Any]]:
        """Copies of what a row holds."""
        return {
            contract.past_name(layer, part): getattr(cached, f"{part}s")[0].numpy().copy()
            for layer, cached in enumerate(self.rows[row].layers)
            for part in contract.KV_PARTS
        }

    def write_row(self, row: int, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Make a row hold what `read_row` gave."""
        import torch
        from transformers import DynamicCache

        names = [contract.past_name(layer, part) for layer in range(len(tensors) // 2) for part in contract.KV_PARTS]
        if set(names) != tensors.keys() or any(tensor.ndim != 3 for tensor in tensors.values()):
            raise InvalidInputError("these keys and values are of another model, or do not fit the cache")
        cache = DynamicCache()
        for layer in range(len(tensors) // 2):
            key, value = (
                torch.from_numpy(tensors[contract.past_name(layer, part)])[None] for part in contract.KV_PARTS
            )
            cache.update(key, value, layer)
        if cache.get_seq_length() > self.capacity:
            raise InvalidInputError("these keys and values are of another model, or do not fit the cache")
        self.rows[row] = cache

    def interrupt(self) -> None:
        """Stop before the next row is computed; a row in flight is finished, torch cannot be stopped."""
        self.interrupted = True


class ReferenceRuntime:
    """The `reference` runtime: every row by itself, through transformers' forward and cache.

    Args:
        model: a CodeGenForCausalLM in evaluation mode.
        config: its shape.
    """

    name = "reference"

    def __init__(self, model: Any, config: ModelConfig) -> None:
        self.config = config
        self._model = model
        arguments = inspect.signature(model.forward).parameters
        known = [name for name in _CACHE_ARGUMENTS if name in arguments]
        if not known:  # it would vanish in **kwargs, and every step would be computed without its past
            raise IncompatibleVersionError(
                f"transformers {installed_version('transformers')} takes its cache by another name than "
                f"{' or '.join(_CACHE_ARGUMENTS)}; proved are {', '.join(proved_versions()['transformers'])}"
            )
        self._cache_argument = known[0]

    def new_cache(self, batch_size: int, capacity: int) -> ReferenceCache:
        """Empty caches; `capacity` is a limit, nothing is allocated."""
        return ReferenceCache(batch_size, capacity)

    def step(
        self,
        token_ids: TokenIds,
        cache: KVCache,
        *,
        counts: NDArray[np.int64] | None = None,
        all_logits: bool = False,
    ) -> Logits:
        """Append tokens to every row and return logits; see `Runtime.step`."""
        import torch

        assert isinstance(cache, ReferenceCache)
        if self._model is None:
            raise BackendError("the reference runtime was closed")
        counts = check_step(token_ids, cache, counts, self.config.vocab_size)
        batch_size, num_new = token_ids.shape
        before = cache.lengths
        logits = np.zeros((batch_size, num_new if all_logits else 1, self.config.vocab_size), np.float32)
        for row, count in enumerate(counts):
            if cache.interrupted:
                cache.interrupted = False
                for done in range(row):
                    cache.rewind(done, int(before[done]))
                raise CancelledError("the step was cancelled")
            with torch.inference_mode():
                output = self._model(
                    input_ids=torch.from_numpy(token_ids[row : row + 1, :count]),
                    use_cache=True,
                    **{self._cache_argument: cache.rows[row]},
                    logits_to_keep=0 if all_logits else 1,
                )
            row_logits = output.logits[0].float().numpy()
            logits[row, : len(row_logits)] = row_logits
        return logits if all_logits else logits[:, -1]

    def close(self) -> None:
        """Free the model."""
        self._model = None
