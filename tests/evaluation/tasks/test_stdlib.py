from __future__ import annotations

from collections import Counter

import pytest

from codegen_edge.checkpoints import shipped_checkpoint
from codegen_edge.checkpoints.corpora import load_corpus
from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.tasks.stdlib.candidates import MOST_PIECES, Candidate, candidates, count_pieces
from codegen_edge.evaluation.tasks.stdlib.items import stdlib_items
from codegen_edge.evaluation.tasks.stdlib.task import StdlibTask
from codegen_edge.evaluation.tasks.task import ExecutedTask, Item, MatchedTask
from codegen_edge.tokenizer import Tokenizer

CONTEXT = 512
ABOVE = "import os\n" * 8


@pytest.fixture(scope="module")
def task() -> StdlibTask:
    return StdlibTask()


@pytest.fixture(scope="module")
def items(task: StdlibTask) -> list[Item]:
    return task.items()


def found(program: str) -> list[tuple[str, str, str]]:
    """Kind, beginning of the line and answer of each candidate below the first lines."""
    return [(each.kind, each.prompt.rpartition("\n")[2], each.answer) for each in candidates(ABOVE + program)]


def test_items_are_the_same_ones_everywhere(task: StdlibTask) -> None:
    assert task.data_hash() == "7f5dd76897340574bf5e4b636cec03eefae8289d3c1b9b6c7fe7a40f7fd37ca0"


def test_there_are_100_items_spread_over_programs_and_kinds(items: list[Item]) -> None:
    assert Counter(item.task_id.split("/")[1] for item in items) == {"name": 40, "bracket": 40, "return": 20}
    assert len({item.task_id for item in items}) == 100
    assert len({item.turns[0].text for item in items}) == 100
    texts = {program.path: program.text for program in load_corpus("held-out")}
    owners = [[path for path, text in texts.items() if item.turns[0].text in text] for item in items]
    shares = Counter(paths[0] for paths in owners)
    assert len(shares) >= 20
    assert max(shares.values()) <= 12


def test_the_first_items_are_of_all_kinds(items: list[Item]) -> None:
    few = StdlibTask(10).items()
    assert few == items[:10]
    assert Counter(item.task_id.split("/")[1] for item in few) == {"name": 4, "bracket": 4, "return": 2}
    with pytest.raises(InvalidInputError, match="limit must be at least 1, got 0"):
        StdlibTask(0)


def test_an_answer_is_what_really_stands_there(items: list[Item]) -> None:
    texts = [program.text for program in load_corpus("held-out")]
    for item in items:
        after = [text.partition(item.turns[0].text)[2].partition("\n")[0] for text in texts]
        assert item.reference in [each.strip() for each in after], item.task_id
        assert not item.turns[0].text[-1].isspace(), item.task_id


def test_an_answer_was_seen_in_its_prompt(items: list[Item]) -> None:
    for item in items:
        prompt, kind = item.turns[0].text, item.task_id.split("/")[1]
        if kind == "bracket":
            last_line = prompt.rpartition("\n")[2]
            openers = [{")": "(", "]": "[", "}": "{"}[mark] for mark in item.reference if mark in ")]}"]
            assert all(last_line.count(mark) >= openers.count(mark) for mark in openers), item.task_id
        else:
            assert prompt.count(item.reference.rstrip(")]}:,")) >= 2, item.task_id


def test_prompt_and_completion_fit_the_shipped_checkpoint(items: list[Item]) -> None:
    folder = shipped_checkpoint("codegen-5M-mono")
    assert folder is not None
    tokenizer = Tokenizer(folder / "tokenizer.json")
    for item in items:
        (turn,) = item.turns
        assert len(tokenizer.encode(turn.text)) + turn.max_new_tokens <= CONTEXT - 64, item.task_id
        assert len(tokenizer.encode(item.reference)) < turn.max_new_tokens // 2, item.task_id


def test_completions_are_compared_without_blanks_around_them(task: StdlibTask, items: list[Item]) -> None:
    item = items[0]
    assert isinstance(task, MatchedTask)
    assert not isinstance(task, ExecutedTask)
    assert task.generation_fields() == {"stop": ("\n",)}
    assert all(task.matches(each, each.gold) for each in items)
    assert task.matches(item, [f" {item.reference} "])
    assert not task.matches(item, [""])
    assert not task.matches(item, [item.reference + "x"])


def test_the_three_kinds_are_found() -> None:
    assert found("value = 1\nuse(value)\nif other(1, value):\n") == [("name", "if other(1,", "value):")]
    assert found("x = (f([a, 12]))\ny = f(a)\nz = f('a'))\n".replace("'a'))", "'a')")) == [
        ("bracket", "x = (f([a, 12", "]))")
    ]
    assert found("def f(total):\n    total += 1\n    return total\n") == [("return", "    return", "total")]


@pytest.mark.parametrize(
    "program",
    [
        "value = value2 = 1\nuse(value2)\n",  # seen as part of a longer name, and once by itself
        "value = 1\nuse(value)\nuse(value)  # with a comment\n".replace("use(value)\n", "use(value + 1)\n", 1),
        "def f(self):\n    self.a(self)\n    self.b(self)\n",  # no one need ask for that
        'text = """\nvalue value\nf(value)\n"""\n',
        'text = f"""{value}\n{value}\n{f(value)}\n"""\n',
        "ab = ab = 1\nf(ab)\n",  # too short a name
        "return_value = 1\nf((1,\n  2))\n",  # brackets of another line
        "def f():\n    return 1\n\n\ndef g():\n    return 1\n\n\ndef h():\n    return 1\n",  # no name in it
        "f(g('a'))\n",  # a quote before the cut
    ],
)
def test_other_ends_of_lines_are_left_alone(program: str) -> None:
    assert found(program) == []


def test_an_attribute_was_seen_as_one() -> None:
    assert found("a.value = b.value + 1\nuse(c.value)\n") == [("name", "use(c.", "value)")]
    assert found("value = value + 1\nuse(c.value)\n") == []
    assert found("a.value = b.value + 1\nuse(value)\n") == []


def test_lines_end_where_tokens_say_so() -> None:
    assert found("\x0c\nvalue = 'a\u2028b'\nuse(value + 1)\nuse(value)\n") == [("name", "use(", "value)")]


def test_first_lines_have_too_little_above_them() -> None:
    program = "value = 1\nuse(value + 1)\nuse(value)\n"
    assert candidates(program) == []
    assert [each.row for each in candidates(ABOVE + program)] == [11]


def test_a_prompt_is_whole_lines_up_to_the_limit() -> None:
    (*_, last) = candidates("value = 1\n" * 400 + "use(value)\n")
    lines = last.prompt.split("\n")
    assert lines[-1] == "use("
    assert set(lines[:-1]) == {"value = 1"}
    assert MOST_PIECES - 10 < count_pieces(last.prompt) <= MOST_PIECES


def test_a_line_of_several_kinds_reads_the_same() -> None:
    several = candidates(ABOVE + "value = 1\nuse(value + 1)\nuse(use(value))\n")
    assert {each.kind: each.line for each in several} == {"name": "use(use(value))", "bracket": "use(use(value))"}
    assert Candidate(kind="name", row=1, prompt="a\n    b = f(", answer="c)").line == "b = f(c)"


def test_programs_with_too_few_lines_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="the programs hold .* lines of kind return, 20 are needed"):
        stdlib_items(load_corpus("held-out")[:3])
