"""A small task of one turn and one of several, judged without executing anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from codegen_edge.evaluation.tasks.task import Item, Turn, content_hash

PROMPTS = (
    "def hello",
    "import os",
    "class Stack:\n    def push",
    "for i in range",
    "return i",
    "print('hello",
    "x",
    "",
)


class EndTask:
    """Right is a completion that ends with a letter."""

    name = "ends"
    rate_name: str | None = None

    def __init__(self, prompts: Sequence[str] = PROMPTS[:-1], max_new_tokens: int = 12) -> None:
        self.prompts = tuple(prompts)
        self.max_new_tokens = max_new_tokens

    def items(self) -> list[Item]:
        return [
            Item(
                task_id=f"end/{number}",
                turns=(Turn(text=prompt, max_new_tokens=self.max_new_tokens),),
                reference="a letter",
                gold=("a",),
            )
            for number, prompt in enumerate(self.prompts)
        ]

    def generation_fields(self) -> Mapping[str, Any]:
        return {"stop": ("\n\n",)}

    def data_hash(self) -> str:
        return content_hash(self.prompts, self.max_new_tokens)

    def matches(self, item: Item, completions: Sequence[str]) -> bool:
        return completions[-1][-1:].isalpha()


class TalkTask(EndTask):
    """The same in three turns."""

    def items(self) -> list[Item]:
        return [
            Item(
                task_id=f"talk/{number}",
                turns=tuple(
                    Turn(text=f"# {prompt} {turn}\n", max_new_tokens=self.max_new_tokens, after="\n\n")
                    for turn in range(3)
                ),
                reference="a letter",
                gold=("a", "a", "a"),
            )
            for number, prompt in enumerate(self.prompts)
        ]
