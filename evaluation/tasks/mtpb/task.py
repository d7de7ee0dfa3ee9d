"""MTPB as a task for the runner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.sandbox import FailureKind, Outcome, PrintedProgram
from codegen_edge.evaluation.tasks.mtpb.checker import equivalent
from codegen_edge.evaluation.tasks.mtpb.problems import MtpbProblem
from codegen_edge.evaluation.tasks.task import Item, Turn, content_hash
from codegen_edge.evaluation.tasks.truncation import paper_truncation

CONTEXT = "# Import libraries.\n\nimport numpy as np\n\n"
"""What every program begins with (codegen1/benchmark/mtpb_sample.py)."""

AFTER = "\n\n"
"""What follows every completion."""

_RAISED = frozenset({FailureKind.EXCEPTION, FailureKind.NAME, FailureKind.ASSERTION, FailureKind.MEMORY})


class MtpbTask:
    """One item per case: a problem with one of its inputs, "57/0" for the first of problem 57.

    Args:
        problems: of `read_mtpb`, or some of them.
        single_turn: whether a case is one turn with all prompts, each as a comment, and as many new tokens as its
            turns would have had together. No such script was published: this is our reading of the paper.
        compat: whether values are judged as by the paper's harness; the gold of an expected dict or None then fails.

    Raises:
        InvalidInputError: there is no problem.
    """

    name = "mtpb"
    rate_name = "pass rate"

    def __init__(self, problems: Sequence[MtpbProblem], *, single_turn: bool = False, compat: bool = False) -> None:
        if not problems:
            raise InvalidInputError("problems: there must be at least one")
        self._problems = list(problems)
        self._single_turn = single_turn
        self._compat = compat
        self._expected = {
            _task_id(problem, case): output for problem in problems for case, output in enumerate(problem.outputs)
        }

    def items(self) -> list[Item]:
        """One per case; the gold prints the expected value in the last turn and writes nothing in those before."""
        return [self._item(problem, case) for problem in self._problems for case in range(len(problem.inputs))]

    def _item(self, problem: MtpbProblem, case: int) -> Item:
        texts = [f"# {prompt}\n" for prompt in problem.turns(case)]
        max_new_tokens = problem.max_gen_length
        if self._single_turn:
            texts, max_new_tokens = ["".join(texts)], max_new_tokens * len(texts)
        texts[0] = CONTEXT + texts[0]
        expected = repr(problem.outputs[case])
        return Item(
            task_id=_task_id(problem, case),
            turns=tuple(Turn(text=text, max_new_tokens=max_new_tokens, after=AFTER) for text in texts),
            reference=expected,
            gold=(*[""] * (len(texts) - 1), f"print({expected})"),
            problem=problem.id,
        )

    def generation_fields(self) -> Mapping[str, Any]:
        """The paper's truncation."""
        return paper_truncation()

    def data_hash(self) -> str:
        """Of the problems and of how they are asked and judged."""
        return content_hash([asdict(problem) for problem in self._problems], self._single_turn, self._compat)

    def program(self, item: Item, completions: Sequence[str]) -> PrintedProgram:
        """The whole text: prompts as comments, and what was written for them."""
        return PrintedProgram(program=item.text(completions))

    def passed(self, item: Item, outcome: Outcome) -> bool:
        """Whether the value that came back is equivalent to the expected one.

        A program that raised after its last print has not passed; the paper's harness takes no notice of that.
        """
        ended_well = outcome.passed or (self._compat and outcome.kind in _RAISED and outcome.value is not None)
        return ended_well and equivalent(self._expected[item.task_id], outcome.value, compat=self._compat)


def _task_id(problem: MtpbProblem, case: int) -> str:
    return f"{problem.id}/{case}"
