"""The past of a generation: transformers' Cache over the KV cache of a runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.cache_utils import Cache

from codegen_edge.errors import ContextLengthError, InvalidInputError
from codegen_edge.runtimes import KVCache, Logits, Runtime
from codegen_edge.transformers.padding import Ids, Mask, compact

_ROOM = 64  # tokens that a row gets at least when its capacity is not known


class CodeGenEdgeCache(Cache):  # type: ignore[misc]  # transformers is untyped
    """Keys and values stay in the runtime's memory; transformers counts columns, the runtime tokens without padding.

    Args:
        runtime: computes the logits.
        capacity: tokens of a row that memory is made for at once; it grows when they do not suffice.
    """

    def __init__(self, runtime: Runtime, capacity: int | None = None) -> None:
        super().__init__(layers=[])
        self._runtime = runtime
        self._capacity = capacity
        self._kv: KVCache | None = None
        self._ids: Ids = np.zeros((0, 0), np.int64)
        self._is_real: Mask = np.zeros((0, 0), np.bool_)

    @property
    def runtime(self) -> Runtime:
        """Whose keys and values these are."""
        return self._runtime

    @property
    def is_real(self) -> Mask:
        """[B, P] the columns that are tokens, not padding."""
        return self._is_real

    def extend(self, token_ids: Ids, is_real: Mask, num_kept: int) -> Logits:
        """Append columns and compute their logits.

        Args:
            token_ids: [B, T] int64, 0…V-1 where they are real.
            is_real: [B, T] whether a column is a token; padding may stand anywhere.
            num_kept: columns whose logits are wanted, from the right (K).

        Returns:
            [B, K, V] float32. Padding has the logits of the row's last token before it, or zeros.

        Raises:
            InvalidInputError: an id outside the vocabulary.
            ContextLengthError: a row exceeds the model's context.
            BackendError: the runtime failed; the past is not to be used further.
        """
        # Before anything is fed, so that the past stays what it was.
        vocab_size = self._runtime.config.vocab_size
        wrong = token_ids[is_real & ((token_ids < 0) | (token_ids >= vocab_size))]
        if len(wrong):
            raise InvalidInputError(f"token id {wrong[0]} is outside the vocabulary of {vocab_size}")
        if self._kv is None:
            logits = self._begin(token_ids, is_real, num_kept)
        else:
            self._make_room(self._kv, self._kv.lengths, is_real)
            logits = self._step(self._kv, token_ids, is_real, num_kept)
        self._ids = np.concatenate([self._ids, token_ids], axis=1)
        self._is_real = np.concatenate([self._is_real, is_real], axis=1)
        return logits

    def _begin(self, token_ids: Ids, is_real: Mask, num_kept: int) -> Logits:
        """Equal rows, of beams and of several samples, are read once."""
        keys = np.concatenate([np.where(is_real, token_ids, -1), is_real], axis=1)
        _, first, copies = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        needed = self._fitting(int(is_real.sum(axis=1).max()))
        capacity = max(needed, min(self._capacity or needed + _ROOM, self._runtime.config.context_length))
        kv = self._runtime.new_cache(len(first), capacity)
        logits = self._step(kv, token_ids[first], is_real[first], num_kept)
        places = copies.reshape(-1).tolist()
        if places != list(range(len(first))):
            kv.select(places)
            logits = logits[places]
        self._kv = kv
        self._ids, self._is_real = token_ids[:, :0], is_real[:, :0]
        return logits

    def _step(self, kv: KVCache, token_ids: Ids, is_real: Mask, num_kept: int) -> Logits:
        num_new = token_ids.shape[1]
        if is_real.all():
            return self._step_without_padding(kv, token_ids, num_kept)
        rows, counts = compact(token_ids, is_real)
        lengths = kv.lengths.copy()
        # A step feeds every row: one with padding only reads its last token again, or one that it then forgets.
        idle = np.flatnonzero(counts == 0)
        for row in idle:
            if lengths[row]:
                rows[row, 0] = self._ids[row][self._is_real[row]][-1]
                kv.rewind(int(row), int(lengths[row]) - 1)
        logits = self._runtime.step(rows, kv, counts=np.maximum(counts, 1), all_logits=num_kept > 1)
        for row in idle:
            kv.rewind(int(row), int(lengths[row]))
        if num_kept == 1:
            is_known = (counts + lengths > 0)[:, None]
            return np.where(is_known, logits, np.float32(0))[:, None]
        places = np.cumsum(is_real, axis=1)[:, num_new - num_kept :] - 1  # [B, K]
        is_known = (places >= 0) | ((counts == 0) & (lengths > 0))[:, None]
        kept: Logits = logits[np.arange(len(rows))[:, None], np.maximum(places, 0)]
        kept[~is_known] = 0
        return kept

    def _step_without_padding(self, kv: KVCache, token_ids: Ids, num_kept: int) -> Logits:
        num_new = token_ids.shape[1]
        if num_kept == 1:
            return self._runtime.step(token_ids, kv)[:, None]
        if num_kept < num_new:  # of a long prompt with drafts only the drafts need logits
            self._runtime.step(np.ascontiguousarray(token_ids[:, :-num_kept]), kv)
        return self._runtime.step(np.ascontiguousarray(token_ids[:, -num_kept:]), kv, all_logits=True)

    def _make_room(self, kv: KVCache, lengths: NDArray[np.int64], is_real: Mask) -> None:
        # A row of padding that has no past reads one token for a moment.
        needed = self._fitting(int(np.maximum(lengths + is_real.sum(axis=1), 1).max()))
        if needed > kv.capacity:
            more = max(needed + _ROOM, 2 * kv.capacity)
            self._kv = self._copied(kv, min(more, self._runtime.config.context_length))

    def _fitting(self, needed: int) -> int:
        most = self._runtime.config.context_length
        if needed > most:
            raise ContextLengthError(f"a row would hold {needed} tokens, the model's context holds {most}")
        return max(needed, 1)

    def _copied(self, kv: KVCache, capacity: int) -> KVCache:
        rows = range(len(kv.lengths))
        made = self._runtime.new_cache(max(1, len(rows)), capacity)
        made.select([])
        made.join(kv, list(rows))
        return made

    def _select(self, rows: Sequence[int]) -> None:
        if self._kv is None:
            return
        shared = 0
        if len(rows) <= len(self._ids) and self._is_real.all():
            differing = np.flatnonzero((self._ids != self._ids[:1]).any(axis=0))
            shared = int(differing[0]) if len(differing) else self._ids.shape[1]
        self._kv.select(rows, shared)
        places = np.array(rows, np.int64)
        self._ids, self._is_real = self._ids[places], self._is_real[places]

    # What transformers asks a cache for.

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns, padding included."""
        return int(self._ids.shape[1])

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """-1: the cache grows, up to the model's context."""
        return -1

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """-1; the name in older versions of transformers."""
        return -1

    def get_mask_sizes(self, query_length: Any, layer_idx: int = 0) -> tuple[int, int]:
        """Columns after a step of `query_length` more, and an offset of 0."""
        num_new = query_length if isinstance(query_length, int) else len(query_length)
        return self.get_seq_length() + num_new, 0

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Make the batch the rows `beam_idx` of what it was."""
        self._select(beam_idx.tolist())

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the rows `indices`: numbers, or a mask of all rows."""
        numbers = indices.nonzero().flatten() if indices.dtype == torch.bool else indices
        self._select(numbers.tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row, copies side by side."""
        self._select([row for row in range(len(self._ids)) for _ in range(repeats)])

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last columns: `-n` of them, or with a number above 0, all but the first so many."""
        length = self.get_seq_length()
        kept = tokens_to_remove if tokens_to_remove > 0 else max(0, length + tokens_to_remove)
        if kept >= length or self._kv is None:
            return
        for row, count in enumerate(self._is_real[:, :kept].sum(axis=1)):
            self._kv.rewind(row, int(count))
        self._ids, self._is_real = self._ids[:, :kept], self._is_real[:, :kept]

    def reset(self) -> None:
        """Forget everything."""
        self._kv = None
        self._ids, self._is_real = self._ids[:0, :0], self._is_real[:0, :0]

    def update(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Refused: keys and values are computed and kept by the runtime."""
        raise InvalidInputError(
            "a CodeGenEdgeCache goes with a CodeGenEdgeForCausalLM only; give this model another cache"
        )

    def activate_past_recording(self) -> None:
        """Nothing to do: any of its tokens can be forgotten at any time."""

    def __len__(self) -> int:
        return int(self._runtime.config.num_layers)

    def __repr__(self) -> str:
        rows, columns = self._ids.shape
        return f"CodeGenEdgeCache(runtime={self._runtime.name!r}, rows={rows}, columns={columns})"

    def __deepcopy__(self, memo: dict[int, Any]) -> CodeGenEdgeCache:
        made = CodeGenEdgeCache(self._runtime, self._capacity)
        if self._kv is not None:
            made._kv = self._copied(self._kv, self._kv.capacity)
        made._ids, made._is_real = self._ids.copy(), self._is_real.copy()
        return made

    @property
    def batch_size(self) -> int:
        """Rows, -1 before the first step."""
        return len(self._ids) if self._kv is not None else -1

    @property
    def max_batch_size(self) -> int:
        """Rows; the name in older versions of transformers."""
        return self.batch_size

    @property
    def is_initialized(self) -> bool:
        """Whether a step was computed."""
        return self._kv is not None

    @property
    def is_compileable(self) -> bool:
        """Never: torch does not see it."""
        return False

    @property
    def is_croppable(self) -> bool:
        """Always."""
        return True

    @property
    def is_sliding(self) -> list[bool]:
        """No layer is."""
        return [False] * len(self)

    @property
    def is_linear(self) -> list[bool]:
        """No layer is."""
        return [False] * len(self)

    @property
    def is_dummy(self) -> list[bool]:
        """No layer is."""
        return [False] * len(self)
