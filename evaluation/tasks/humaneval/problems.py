"""HumanEval's problems, as its file gives them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.sandbox import CheckedProgram
from codegen_edge.evaluation.tasks.records import Record, read_records

_FIELDS = ("prompt", "canonical_solution", "test", "entry_point")


@dataclass(frozen=True, slots=True, kw_only=True)
class HumanEvalProblem:
    """A function to complete.

    Attributes:
        task_id: e.g. "HumanEval/0".
        prompt: imports, helpers, signature and docstring.
        canonical_solution: a right completion.
        test: a text that defines `check(candidate)`.
        entry_point: the function's name.
    """

    task_id: str
    prompt: str
    canonical_solution: str
    test: str
    entry_point: str

    def program(self, completion: str) -> CheckedProgram:
        """Prompt and completion, with the problem's tests."""
        return self.whole_program(self.prompt + completion)

    def whole_program(self, solution: str) -> CheckedProgram:
        """A text that defines the function by itself, with the problem's tests."""
        return CheckedProgram(program=solution, tests=self.test, entry_point=self.entry_point)


def read_humaneval(path: Path) -> list[HumanEvalProblem]:
    """The problems of `HumanEval.jsonl`, `HumanEval.jsonl.gz` or HumanEval+'s file, in its order.

    Args:
        path: JSON lines; other fields than HumanEval's are passed over.

    Raises:
        InvalidInputError: the file cannot be read or holds no problem; a line is malformed, lacks a field or repeats
            a problem.
    """
    problems: dict[str, HumanEvalProblem] = {}
    for record in read_records(path):
        problem = _problem(record)
        if problem.task_id in problems:
            raise record.error(f'"{problem.task_id}" is there twice')
        problems[problem.task_id] = problem
    if not problems:
        raise InvalidInputError(f"{path} holds no problem")
    return list(problems.values())


def _problem(record: Record) -> HumanEvalProblem:
    task_id, texts = record.text("task_id"), {name: record.text(name) for name in _FIELDS}
    if not texts["entry_point"].isidentifier():
        raise record.error(f'"entry_point" must be the name of a function, got {texts["entry_point"]!r}')
    return HumanEvalProblem(task_id=task_id, **texts)
