"""What every task offers to the runner: items to write completions for, and how completions are judged.

A task holds data and rules. It does not generate, does not execute and writes no file: the runner does. A completion is
judged in one of two ways, so there are two kinds of task: an `ExecutedTask` gives a program for the sandbox and judges
the outcome, a `MatchedTask` judges the text itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from codegen_edge.evaluation.sandbox import CheckedProgram, Outcome, PrintedProgram


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One generation of an item.

    Attributes:
        text: appended to the context before the generation.
        max_new_tokens: the most tokens that it may add.
        after: appended to the context after the completion, which was cut by the task's truncation.
    """

    text: str
    max_new_tokens: int
    after: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What one sample of a task is made for.

    Attributes:
        task_id: names it in samples and verdicts, e.g. "HumanEval/0".
        turns: at least one; a sample has one completion per turn.
        reference: what a report shows beside the completions: a solution, or the expected value.
        gold: right completions, one per turn. An oracle: they pass, unless the task says which of them do not.
        problem: what it is a case of; cases of one problem are drawn anew together. Empty where it stands alone.
    """

    task_id: str
    turns: tuple[Turn, ...]
    reference: str
    gold: tuple[str, ...]
    problem: str = ""

    def text(self, completions: Sequence[str]) -> str:
        """The whole text of a sample: what each turn appends, with its completion.

        Args:
            completions: one per turn.
        """
        pairs = zip(self.turns, completions, strict=True)
        return "".join(f"{turn.text}{completion}{turn.after}" for turn, completion in pairs)


class Task(Protocol):
    """What both kinds of task have."""

    @property
    def name(self) -> str:
        """As in results: "humaneval", "mtpb", "stdlib"."""

    @property
    def rate_name(self) -> str | None:
        """What the share of right samples is called; None where the score is pass@k."""

    def items(self) -> Sequence[Item]:
        """All items in the data's order, the same ones at every call."""

    def generation_fields(self) -> Mapping[str, Any]:
        """Fields of GenerationParams that the task fixes: where a completion ends. `max_new_tokens` is the turn's."""

    def data_hash(self) -> str:
        """SHA-256, in hexadecimal, of all that items and verdicts are made of."""


@runtime_checkable
class ExecutedTask(Task, Protocol):
    """A task whose completions are executed."""

    def program(self, item: Item, completions: Sequence[str]) -> CheckedProgram | PrintedProgram:
        """The program for the sandbox, of one completion per turn."""

    def passed(self, item: Item, outcome: Outcome) -> bool:
        """Whether what the sandbox says is right for this item; False for every outcome that did not pass."""


@runtime_checkable
class MatchedTask(Task, Protocol):
    """A task whose completions are compared as texts; nothing is executed."""

    def matches(self, item: Item, completions: Sequence[str]) -> bool:
        """Whether the completions are right."""


AnyTask = ExecutedTask | MatchedTask
"""`isinstance(task, MatchedTask)` tells them apart."""


def content_hash(*parts: object) -> str:
    """SHA-256, in hexadecimal, of parts that JSON can hold; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
