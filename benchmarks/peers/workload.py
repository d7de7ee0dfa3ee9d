"""Workloads: how long a prompt, how many new tokens, how many rows, beside how many busy neighbours."""

from __future__ import annotations

import random
import re
import zlib
from dataclasses import dataclass

from benchmarks.peers.workers.protocol import TokenIds

# Ids below are ordinary tokens in every CodeGen's tokenizer.
_MOST_ID = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One generation.

    Attributes:
        prompt_tokens: of each row.
        new_tokens: of each row, greedy.
        batch: rows.
        neighbours: processes that burn a core meanwhile.
    """

    prompt_tokens: int
    new_tokens: int
    batch: int = 1
    neighbours: int = 0

    def __post_init__(self) -> None:
        if self.new_tokens < 2:
            raise ValueError(f"new_tokens must be at least 2, got {self.new_tokens}: the first belongs to the prefill")

    @classmethod
    def parse(cls, text: str) -> Workload:
        """Of `128+64`, `8x128+16` (rows) or `128+32@1` (busy neighbours)."""
        match = re.fullmatch(r"(?:(\d+)x)?(\d+)\+(\d+)(?:@(\d+))?", text)
        if match is None:
            raise ValueError(f"a workload reads 128+64, 8x128+16 or 128+32@1, got {text!r}")
        batch, prompt, new, neighbours = match.groups()
        return cls(
            prompt_tokens=int(prompt), new_tokens=int(new), batch=int(batch or 1), neighbours=int(neighbours or 0)
        )

    @property
    def name(self) -> str:
        """The text that `parse` reads."""
        rows = "" if self.batch == 1 else f"{self.batch}x"
        busy = f"@{self.neighbours}" if self.neighbours else ""
        return f"{rows}{self.prompt_tokens}+{self.new_tokens}{busy}"

    @property
    def is_warmed(self) -> bool:
        """Whether it is run once before it is timed; long prefills dwarf what a first run adds."""
        return self.batch * self.prompt_tokens <= 256

    def prompts(self, kind: str = "timed") -> TokenIds:
        """Token ids, the same in every process; each workload and kind has its own, so no kept prefix helps."""
        numbers = random.Random(zlib.crc32(f"{self.name} {kind}".encode()))
        return [[numbers.randrange(_MOST_ID) for _ in range(self.prompt_tokens)] for _ in range(self.batch)]


def parse_all(texts: str) -> tuple[Workload, ...]:
    """Of a list with commas."""
    return tuple(map(Workload.parse, texts.split(",")))


DEFAULT = {
    "fp32": parse_all("128+64"),
    "int8": parse_all("128+64,128+32@1,128+32@2,8x128+16,16+64,1024+16,1900+16"),
    "int4": parse_all("128+64,1900+16"),
}
QUICK = {"fp32": parse_all("128+16"), "int8": parse_all("128+16,128+16@1,8x16+8"), "int4": parse_all("128+16")}
