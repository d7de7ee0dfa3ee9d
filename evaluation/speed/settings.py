"""What is measured: how long a prompt, how many new tokens, in how many rows, rounds and threads."""

from __future__ import annotations

from dataclasses import dataclass

from codegen_edge.bundle import Bundle, contract
from codegen_edge.errors import InvalidInputError

_MOST = {"prompt_tokens": 2**20, "new_tokens": 2**20, "batch": 1024, "rounds": 1000}
_LEAST = {"prompt_tokens": 1, "new_tokens": 2, "batch": 1, "rounds": 2}
_WHY = {
    "new_tokens": "the first token belongs to the prefill, a decode step gives the second",
    "rounds": "one round has no range",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedSettings:
    """One workload.

    Attributes:
        prompt_tokens: of each row.
        new_tokens: of each row, greedy; the end of text does not end it.
        batch: rows.
        rounds: how often each bundle is measured.
        threads: CPU threads of the runtime and of the measured limits; None takes all that this process may use.
        runtime: runs the bundles.
        exact_steps: cpu: whether a token's bits do not depend on how the text before it was read.

    Raises:
        InvalidInputError: from the constructor, naming what is out of range.
    """

    prompt_tokens: int = 128
    new_tokens: int = 64
    batch: int = 1
    rounds: int = 5
    threads: int | None = None
    runtime: str = "cpu"
    exact_steps: bool = False

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value, most = getattr(self, name), _MOST[name]
            if not least <= value <= most:
                why = f": {_WHY[name]}" if value < least and name in _WHY else ""
                raise InvalidInputError(f"{name} must be in {least}…{most}, got {value}{why}")
        if self.threads is not None and self.threads < 1:
            raise InvalidInputError(f"threads must be at least 1, got {self.threads}")

    def check_room(self, bundle: Bundle, memory_bytes: int | None) -> None:
        """Raise InvalidInputError where a row exceeds the bundle's context, or the cache of all rows the memory.

        Args:
            bundle: what is measured.
            memory_bytes: of the machine, where it is known.
        """
        model, name = bundle.manifest.model, bundle.path.name
        row = self.prompt_tokens + self.new_tokens
        if row > model.context_length:
            raise InvalidInputError(
                f"{self.prompt_tokens} prompt tokens and {self.new_tokens} new ones are {row} tokens in each of "
                f"{self.batch} rows; the context of {name} holds {model.context_length}"
            )
        item_bytes = contract.ITEM_BYTES[bundle.manifest.cache_precision]
        cache_bytes = self.batch * row * 2 * model.num_layers * model.num_heads * model.head_dim * item_bytes
        if memory_bytes is not None and cache_bytes > memory_bytes:
            raise InvalidInputError(
                f"{self.batch} rows of {row} tokens need a cache of {cache_bytes / 1e9:.1f} GB for {name}; this "
                f"machine has {memory_bytes / 1e9:.1f} GB of memory"
            )
