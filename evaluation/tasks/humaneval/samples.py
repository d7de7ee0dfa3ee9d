"""Samples files: human-eval's lines (task_id, completion) and EvalPlus's (task_id, solution)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from codegen_edge.errors import InvalidInputError, StorageError
from codegen_edge.evaluation.sandbox import CheckedProgram
from codegen_edge.evaluation.tasks.humaneval.problems import HumanEvalProblem
from codegen_edge.evaluation.tasks.records import Record, read_records

SamplesForm = Literal["human-eval", "evalplus"]
SAMPLES_FORMS: tuple[SamplesForm, ...] = get_args(SamplesForm)

_MOST_NAMES = 10  # of missing problems in an error: a message is one line


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What somebody's model wrote for a problem.

    Attributes:
        problem: which one.
        text: what follows the problem's prompt, or a whole program.
        is_whole: whether it is a whole program (EvalPlus's "solution").
    """

    problem: HumanEvalProblem
    text: str
    is_whole: bool = False

    @property
    def program(self) -> CheckedProgram:
        """The sample as a program with its problem's tests."""
        return self.problem.whole_program(self.text) if self.is_whole else self.problem.program(self.text)


def read_samples(path: Path, problems: Sequence[HumanEvalProblem]) -> list[Sample]:
    """The samples of a file of either form, in its order; a problem may have several.

    A line with both fields counts as its "solution", as in EvalPlus.

    Args:
        path: JSON lines, plain or compressed by gzip.
        problems: those that the samples are of.

    Raises:
        InvalidInputError: the file cannot be read, a line is malformed or of an unknown problem, or problems have no
            sample: a score over some of the problems is none over all, so human-eval refuses them too.
    """
    known = {problem.task_id: problem for problem in problems}
    samples = [_sample(record, known) for record in read_records(path)]
    missing = sorted(known.keys() - {sample.problem.task_id for sample in samples}, key=list(known).index)
    if missing:
        shown = ", ".join(missing[:_MOST_NAMES]) + (", …" if len(missing) > _MOST_NAMES else "")
        raise InvalidInputError(f"{path} has no sample of {len(missing)} of {len(known)} problems: {shown}")
    return samples


def _sample(record: Record, known: dict[str, HumanEvalProblem]) -> Sample:
    task_id = record.text("task_id")
    if task_id not in known:
        raise record.error(f'"{task_id}" is none of the {len(known)} problems')
    is_whole = "solution" in record.fields
    if not is_whole and "completion" not in record.fields:
        raise record.error('"completion" or "solution" is missing')
    text = record.text("solution" if is_whole else "completion")
    return Sample(problem=known[task_id], text=text, is_whole=is_whole)


def write_samples(path: Path, samples: Iterable[Sample], *, form: SamplesForm = "human-eval") -> None:
    """Write samples for human-eval's or EvalPlus's own tools.

    Args:
        path: the file; an older one is replaced.
        samples: in the order of the lines.
        form: "human-eval" writes what follows the prompt, "evalplus" whole programs.

    Raises:
        InvalidInputError: the form is unknown, or human-eval's cannot hold a whole program that does not begin with
            its prompt.
        StorageError: the file cannot be written.
    """
    if form not in SAMPLES_FORMS:
        raise InvalidInputError(f"form must be one of {', '.join(SAMPLES_FORMS)}, got {form!r}")
    write = _completion_line if form == "human-eval" else _solution_line
    lines = [json.dumps(write(sample)) + "\n" for sample in samples]
    try:
        path.write_text("".join(lines), encoding="utf-8")
    except OSError as exc:
        raise StorageError(f"{path} cannot be written: {exc.strerror or exc}") from exc


def _completion_line(sample: Sample) -> dict[str, str]:
    task_id, prompt = sample.problem.task_id, sample.problem.prompt
    if sample.is_whole and not sample.text.startswith(prompt):
        raise InvalidInputError(
            f"a solution of {task_id} does not begin with its prompt, so human-eval's form cannot hold it; "
            'write form "evalplus"'
        )
    return {"task_id": task_id, "completion": sample.text[len(prompt) :] if sample.is_whole else sample.text}


def _solution_line(sample: Sample) -> dict[str, str]:
    return {"task_id": sample.problem.task_id, "solution": sample.program.program}
