"""Keys and values of prompts that were read, kept for prompts that begin alike."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from codegen_edge.generation.slots import Prefix
from codegen_edge.generation.speculation import common_length
from codegen_edge.runtimes.runtime import KVCache, Runtime

_LEAST_TOKENS = 16  # a shorter beginning is read as fast as it is copied


@dataclass(slots=True)
class _Entry:
    owner: str
    ids: tuple[int, ...]
    cache: KVCache


class PrefixCache:
    """Rows of one token sequence each, of the prompts read last.

    The longest common beginning counts, whatever follows in either prompt. Owners are kept apart: whether a prompt was
    read before can be told by the time that it takes. One thread uses it, the engine's.

    Args:
        runtime: whose caches these are.
        bytes_per_token: of keys and values.
        max_bytes: of all rows; the least recently used leave first. 0 keeps nothing.
    """

    def __init__(self, runtime: Runtime, *, bytes_per_token: int, max_bytes: int) -> None:
        self._runtime = runtime
        self._bytes_per_token = bytes_per_token
        self._max_bytes = max_bytes
        self._entries: OrderedDict[int, _Entry] = OrderedDict()  # the most recently used last
        self._next_key = 0
        self._num_tokens = 0  # of all entries; counted here, because other threads ask for it
        self.num_queried = 0  # tokens that were looked up
        self.num_hit = 0  # and those that were found

    @property
    def size_bytes(self) -> int:
        """Of the rows that are kept."""
        return self._num_tokens * self._bytes_per_token

    def find(self, owner: str, prompt: tuple[int, ...]) -> Prefix | None:
        """What is known of a prompt's beginning, or None; the prompt's last token is never part of it.

        The logits after the last token are wanted, so it is always read.
        """
        self.num_queried += len(prompt)
        best, length = None, 0
        for key, entry in self._entries.items():
            if entry.owner == owner:
                common = min(common_length(entry.ids, prompt), len(prompt) - 1)
                if common > length:
                    best, length = key, common
        if best is None or length < _LEAST_TOKENS:
            return None
        self._entries.move_to_end(best)
        self.num_hit += length
        return Prefix(self._entries[best].cache, length)

    def keep(self, owner: str, prompt: tuple[int, ...], cache: KVCache, row: int) -> None:
        """Copy a prompt, which is all that row `row` of a cache holds."""
        size = len(prompt) * self._bytes_per_token
        if len(prompt) < _LEAST_TOKENS or size > self._max_bytes:
            return
        for key, entry in list(self._entries.items()):
            if entry.owner == owner:
                common = common_length(entry.ids, prompt)
                if common == len(prompt):
                    self._entries.move_to_end(key)
                    return  # known already, and more
                if common == len(entry.ids):
                    self._drop(key)  # the new one holds it
        while self._entries and self.size_bytes + size > self._max_bytes:
            self._drop(next(iter(self._entries)))
        # Of the prompt's own length: pages of a larger one would be there as a whole (transparent huge pages).
        kept = self._runtime.new_cache(1, len(prompt))
        kept.select([])
        kept.join(cache, [row])
        self._entries[self._next_key] = _Entry(owner, prompt, kept)
        self._next_key += 1
        self._num_tokens += len(prompt)

    def clear(self) -> None:
        """Forget all."""
        self._entries.clear()
        self._num_tokens = 0

    def _drop(self, key: int) -> None:
        self._num_tokens -= len(self._entries.pop(key).ids)
