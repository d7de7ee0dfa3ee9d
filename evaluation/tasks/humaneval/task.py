"""HumanEval as a task for the runner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.sandbox import CheckedProgram, Outcome
from codegen_edge.evaluation.tasks.humaneval.problems import HumanEvalProblem
from codegen_edge.evaluation.tasks.task import Item, Turn, content_hash
from codegen_edge.evaluation.tasks.truncation import paper_truncation

MAX_NEW_TOKENS = 256
"""Of CodeGen's tokenizer, 163 of the 164 canonical solutions have fewer; the release's sample.py stops at 128."""


class HumanEvalTask:
    """One item per problem: its prompt, unchanged, and a completion cut by the paper's rule.

    Args:
        problems: of `read_humaneval`, or some of them.
        max_new_tokens: of a completion.

    Raises:
        InvalidInputError: there is no problem.
    """

    name = "humaneval"
    rate_name = None

    def __init__(self, problems: Sequence[HumanEvalProblem], *, max_new_tokens: int = MAX_NEW_TOKENS) -> None:
        if not problems:
            raise InvalidInputError("problems: there must be at least one")
        self._problems = {problem.task_id: problem for problem in problems}
        self._max_new_tokens = max_new_tokens

    def items(self) -> list[Item]:
        """One per problem, in their order; the gold completion is the canonical solution."""
        return [
            Item(
                task_id=problem.task_id,
                turns=(Turn(text=problem.prompt, max_new_tokens=self._max_new_tokens),),
                reference=problem.canonical_solution,
                gold=(problem.canonical_solution,),
            )
            for problem in self._problems.values()
        ]

    def generation_fields(self) -> Mapping[str, Any]:
        """The paper's truncation."""
        return paper_truncation()

    def data_hash(self) -> str:
        """Of the problems and the limit of tokens."""
        return content_hash([asdict(problem) for problem in self._problems.values()], self._max_new_tokens)

    def program(self, item: Item, completions: Sequence[str]) -> CheckedProgram:
        """Prompt and completion, with the problem's tests."""
        (completion,) = completions
        return self._problems[item.task_id].program(completion)

    def whole_program(self, item: Item, solution: str) -> CheckedProgram:
        """A text that defines the function by itself (EvalPlus's "solution"), with the problem's tests."""
        return self._problems[item.task_id].whole_program(solution)

    def passed(self, item: Item, outcome: Outcome) -> bool:
        """The sandbox's verdict: `check` ran to its end."""
        return outcome.passed
