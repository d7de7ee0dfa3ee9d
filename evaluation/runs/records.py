"""The lines of a results folder: what was written, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

Key = tuple[str, int]
"""An item's task_id and the number of the sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    task_id: str
    sample: int

    @property
    def key(self) -> Key:
        """What the line is of."""
        return self.task_id, self.sample

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """A line that `to_dict` gave; raise KeyError or TypeError for another one."""
        given = {each.name: values[each.name] for each in fields(cls)}
        if not isinstance(given["task_id"], str) or not isinstance(given["sample"], int):
            raise TypeError("task_id must be a text, sample a number")
        return cls(**given)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleLine(_Line):
    """What a model wrote for one sample of an item. It holds no time: an interrupted run and an unbroken one are equal.

    Attributes:
        task_id: of the item.
        sample: from 0.
        completions: one per turn; None where a turn's text did not fit the context.
        prompt_tokens: of the last turn's context.
        num_tokens: new ones, of all turns.
        finish_reason: of the last turn; "context" where its text did not fit.
        is_whole: whether the completion is a whole program, which needs no prompt (EvalPlus's "solution").
    """

    completions: tuple[str, ...] | None
    prompt_tokens: int = 0
    num_tokens: int = 0
    finish_reason: str = ""
    is_whole: bool = False

    def __post_init__(self) -> None:
        if self.completions is not None:  # JSON gives a list
            object.__setattr__(self, "completions", tuple(self.completions))


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictLine(_Line):
    """Whether a sample is right.

    Attributes:
        task_id: of the item.
        sample: from 0.
        passed: whether it is.
        kind: of the failure: a FailureKind, "context", "value" for a wrong value, "text" for a wrong text; None when
            passed.
        message: one line about the failure.
        has_reference: whether the item's canonical solution passes here. Where it does not, how many assertions a right
            program reaches is not known, and the tests alone decide.
    """

    passed: bool
    kind: str | None = None
    message: str = ""
    has_reference: bool = True
