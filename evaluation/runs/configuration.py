"""What a run is made with: whatever may change a sample or a verdict is part of its hash."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from codegen_edge.errors import InvalidInputError
from codegen_edge.generation.params import GenerationParams

_HASH_LENGTH = 16  # hexadecimal digits


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How samples are drawn.

    Attributes:
        num_samples: per item.
        temperature: 0 is greedy.
        top_p: of nucleus sampling.
        seed: of all random numbers; each item has some of its own, and each sample of it.

    Raises:
        InvalidInputError: a number is out of range, or several samples of a greedy choice.
    """

    num_samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise InvalidInputError(f"num_samples must be at least 1, got {self.num_samples}")
        GenerationParams(temperature=self.temperature, top_p=self.top_p, seed=self.seed)
        if self.num_samples > 1 and self.temperature == 0:
            raise InvalidInputError(
                f"{self.num_samples} samples of a greedy choice are all the same; give a temperature above 0",
                hint="--temperature 0.2",
            )

    def item_seed(self, task_id: str, sample: int | None = None, turn: int = 0) -> int:
        """The seed of an item's samples together, or of one turn of one of them."""
        text = json.dumps([self.seed, task_id, sample, turn])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


@dataclass(frozen=True)
class Configuration:
    """What a results folder is of.

    Attributes:
        task: its name.
        fields: all that may change a sample or a verdict; JSON values.
        about: what a reader wants to know beside it: names, versions, the machine.
    """

    task: str
    fields: dict[str, Any]
    about: dict[str, Any]

    @cached_property
    def hash(self) -> str:
        """Of task and fields."""
        text = json.dumps([self.task, self.fields], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:_HASH_LENGTH]

    def to_dict(self) -> dict[str, Any]:
        """For configuration.json."""
        return {
            "format": 1,
            "task": self.task,
            "hash": self.hash,
            "configuration": self.fields,
            "about": self.about,
        }

    def difference(self, other: dict[str, Any]) -> str:
        """What another folder's configuration says otherwise, in words."""
        theirs = other.get("configuration")
        fields: dict[str, Any] = {"task": other.get("task"), **(theirs if isinstance(theirs, dict) else {})}
        mine = {"task": self.task, **self.fields}
        names = [name for name in {**mine, **fields} if mine.get(name) != fields.get(name)]
        return ", ".join(f"{name} {_short(fields.get(name))} instead of {_short(mine.get(name))}" for name in names)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else f"{text[:12]}…{text[-8:]}"
