from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.sandbox import FailureKind, Outcome
from codegen_edge.evaluation.tasks.mtpb.checker import equivalent
from codegen_edge.evaluation.tasks.mtpb.problems import MtpbProblem, read_mtpb
from codegen_edge.evaluation.tasks.mtpb.task import CONTEXT, MtpbTask
from codegen_edge.evaluation.tasks.task import ExecutedTask

LENGTHS: dict[str, Any] = {
    "id": "7",
    "name": "Lengths",
    "description": "Count letters.",
    "category": "string",
    "prompts": ['Assign "{A}" to "word".', "Print its length, as in {{}}."],
    "inputs": [{"A": "abc"}, {"A": [1, 2], "B": 0}],
    "outputs": [3, 2, 99],
    "max_gen_length": 128,
}
TABLE = LENGTHS | {"id": "8", "prompts": ["Print a table of {A}."], "outputs": [{"a": 1.5}, None]}


def write(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def problems(tmp_path: Path) -> list[MtpbProblem]:
    return read_mtpb(write(tmp_path / "mtpb.jsonl", LENGTHS, TABLE))


def test_problems_are_read_and_an_output_without_input_is_left_out(problems: list[MtpbProblem]) -> None:
    assert [each.id for each in problems] == ["7", "8"]
    assert problems[0].outputs == (3, 2)
    assert problems[0].turns(1) == ['Assign "[1, 2]" to "word".', "Print its length, as in {}."]


def test_a_turn_has_256_tokens_where_the_problem_says_nothing(tmp_path: Path) -> None:
    silent = {name: value for name, value in LENGTHS.items() if name != "max_gen_length"}
    (problem,) = read_mtpb(write(tmp_path / "mtpb.jsonl", silent))
    assert problem.max_gen_length == 256


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"id": 8}, '"id" must be a text'),
        ({"id": "7"}, 'problem "7" is there twice'),
        ({"prompts": []}, '"prompts" must be a list of at least one element'),
        ({"prompts": ["a", 1]}, '"prompts" must be a list of texts'),
        ({"inputs": [1, 2]}, '"inputs" must be a list of objects'),
        ({"outputs": [1]}, "2 inputs have 1 outputs"),
        ({"prompts": ["{B}"]}, "a prompt has a place 'B' that input 0 does not fill"),
        ({"prompts": ["{A} {}"]}, r"a prompt does not fit input 0 \("),
        ({"prompts": ["{A"]}, r"a prompt does not fit input 0 \("),
        ({"prompts": ["{A.b}"]}, r"a prompt does not fit input 0 \("),
        ({"prompts": ["{A:d}"]}, r"a prompt does not fit input 0 \("),
        ({"max_gen_length": 0}, '"max_gen_length" must be a whole number above 0, got 0'),
        ({"max_gen_length": True}, '"max_gen_length" must be a whole number above 0, got True'),
    ],
)
def test_a_bad_problem_is_refused_with_its_line(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    path = write(tmp_path / "mtpb.jsonl", LENGTHS, TABLE | change)
    with pytest.raises(InvalidInputError, match=f"mtpb.jsonl, line 2: {expected}"):
        read_mtpb(path)


def test_a_file_without_problems_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="holds no problem"):
        read_mtpb(write(tmp_path / "mtpb.jsonl"))
    with pytest.raises(InvalidInputError, match="at least one"):
        MtpbTask([])


def test_a_case_is_the_published_text(problems: list[MtpbProblem]) -> None:
    task = MtpbTask(problems)
    assert isinstance(task, ExecutedTask)
    items = task.items()
    assert [item.task_id for item in items] == ["7/0", "7/1", "8/0", "8/1"]
    assert [turn.max_new_tokens for turn in items[0].turns] == [128, 128]
    assert task.program(items[0], ["word = 'abc'\n", "print(len(word))"]).program == (
        "# Import libraries.\n\nimport numpy as np\n\n"
        '# Assign "abc" to "word".\nword = \'abc\'\n\n\n'
        "# Print its length, as in {}.\nprint(len(word))\n\n"
    )


def test_a_single_turn_has_all_prompts_and_the_tokens_of_all_turns(problems: list[MtpbProblem]) -> None:
    item = MtpbTask(problems, single_turn=True).items()[0]
    (turn,) = item.turns
    assert turn.text == CONTEXT + '# Assign "abc" to "word".\n# Print its length, as in {}.\n'
    assert turn.max_new_tokens == 256
    assert len(item.gold) == 1


@pytest.mark.parametrize("single_turn", [False, True])
def test_gold_completions_print_the_expected_value(problems: list[MtpbProblem], single_turn: bool) -> None:
    task, compat = (MtpbTask(problems, single_turn=single_turn, compat=each) for each in (False, True))
    verdicts: dict[str, tuple[bool, bool]] = {}
    for item in task.items():
        printed: list[object] = []
        exec(task.program(item, item.gold).program, {"print": printed.append})
        outcome = Outcome(passed=True, kind=None, message="", seconds=0.1, value=printed[-1])
        verdicts[item.task_id] = task.passed(item, outcome), compat.passed(item, outcome)
    assert verdicts == {"7/0": (True, True), "7/1": (True, True), "8/0": (True, False), "8/1": (True, False)}


@pytest.mark.parametrize(
    ("kind", "value", "counted"),
    [
        (FailureKind.EXCEPTION, 3, True),
        (FailureKind.NAME, 3, True),
        (FailureKind.EXCEPTION, 4, False),
        (FailureKind.EXCEPTION, None, False),
        (FailureKind.FORGED, 3, False),
        (FailureKind.TIMEOUT, 3, False),
    ],
)
def test_a_program_that_raised_after_its_print_counts_in_compat_alone(
    problems: list[MtpbProblem], kind: FailureKind, value: object, counted: bool
) -> None:
    outcome = Outcome(passed=False, kind=kind, message="", seconds=0.1, value=value)
    for compat in (False, True):
        task = MtpbTask(problems, compat=compat)
        assert task.passed(task.items()[0], outcome) == (compat and counted)


def test_none_is_expected_of_a_program_that_ended_well(problems: list[MtpbProblem]) -> None:
    task = MtpbTask(problems)
    item = task.items()[3]
    assert equivalent(None, None)
    assert not task.passed(item, Outcome(passed=False, kind=FailureKind.TIMEOUT, message="", seconds=1.0))


def test_the_hash_changes_with_the_data_and_the_way_to_ask(problems: list[MtpbProblem]) -> None:
    hashes = {
        MtpbTask(problems).data_hash(),
        MtpbTask(problems[:1]).data_hash(),
        MtpbTask(problems, single_turn=True).data_hash(),
        MtpbTask(problems, compat=True).data_hash(),
    }
    assert len(hashes) == 4
    assert MtpbTask(list(problems)).data_hash() in hashes
