from __future__ import annotations

import random
import re

import pytest

from codegen_edge.evaluation.tasks.truncation import paper_truncation, truncate
from codegen_edge.generation import GenerationParams
from codegen_edge.generation.text import Cut

PIECES = (
    *("\n", "\n\n", "\n\n\n", "print", "def", "#", "'''", '"""', "<|endoftext|>", "pri", "nt(x)", "de", "f g():"),
    *(" ", "    return x", "x", '"', "'", "\r", "é", "\u2028"),
)


def rule(text: str) -> str:
    """The rule in words: print, then def, then the earliest first match of a terminal."""
    for word in ("print", "def"):
        starts = [match.start() for match in re.finditer(f"^{word}", text, re.MULTILINE)]
        if len(starts) > 1:
            text = text[: starts[1]]
    matches = [
        re.search(pattern, text, re.MULTILINE)
        for pattern in ("^#", re.escape("<|endoftext|>"), "^'''", '^"""', "\n\n\n")
    ]
    return text[: min((match.start() for match in matches if match), default=len(text))]


def random_texts(count: int, seed: int) -> list[str]:
    chosen = random.Random(seed)
    return ["".join(chosen.choices(PIECES, k=chosen.randrange(18))) for _ in range(count)]


def test_truncation_is_the_rule_for_random_texts() -> None:
    texts = random_texts(8_000, seed=1)
    assert [truncate(text) for text in texts] == [rule(text) for text in texts]
    assert sum(truncate(text) != text for text in texts) > 2_000


def test_text_that_is_cut_as_it_comes_is_cut_by_the_rule() -> None:
    cut = Cut(**paper_truncation())
    for text in random_texts(2_000, seed=2):
        grown = (text[:end] for end in range(len(text) + 1))
        found = next(((each, end) for each in grown if (end := cut.find(each, is_whole=False)) is not None), None)
        assert (found[0][: found[1]] if found else text[: cut.find(text)]) == rule(text), repr(text)


@pytest.mark.parametrize(
    ("completion", "kept"),
    [
        ("    return 1\n", "    return 1\n"),
        ("a = 1\nprint(a)\nprint(a)\n", "a = 1\nprint(a)\n"),
        ("    return 1\n\ndef f():\n    pass\n\ndef g():\n", "    return 1\n\ndef f():\n    pass\n\n"),
        ("def f():\n    pass\nprint(1)\ndef g():\n    print(2)\nprint(3)\n", "def f():\n    pass\nprint(1)\n"),
        ("x = 1\n# next\n", "x = 1\n"),
        ("x = 1  # not at the start of a line\n", "x = 1  # not at the start of a line\n"),
        ("x = 1<|endoftext|>y", "x = 1"),
        ("x\n\n\ny", "x"),
        ("# all of it", ""),
        ("", ""),
    ],
)
def test_truncation_by_example(completion: str, kept: str) -> None:
    assert truncate(completion) == rule(completion) == kept


def test_the_rule_goes_into_generation_params() -> None:
    params = GenerationParams(**paper_truncation())
    assert params.single_block
    assert len(params.truncate_before) == 5
