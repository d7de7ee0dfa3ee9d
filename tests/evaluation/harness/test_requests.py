"""What lm-eval's tasks ask for, as GenerationParams."""

from __future__ import annotations

from typing import Any

import pytest

from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.harness.requests import generation_params, rows_of


@pytest.mark.parametrize(
    ("given", "rows"), [(1, 1), ("4", 4), ("auto", 8), ("auto:4", 8)], ids=["number", "digits", "auto", "auto again"]
)
def test_batch_sizes(given: int | str, rows: int) -> None:
    assert rows_of(given) == rows
    assert rows_of(given, 2) == min(rows, 2)


@pytest.mark.parametrize("given", [0, "-1", "many", "", 1.5])
def test_other_batch_sizes_are_refused(given: Any) -> None:
    with pytest.raises(InvalidInputError, match="batch_size must be a number of at least 1"):
        rows_of(given)


@pytest.mark.parametrize(
    ("asked", "fields"),
    [
        ({}, {"temperature": 0.0, "max_new_tokens": 256, "stop": (), "seed": None}),
        ({"until": "\n"}, {"stop": ("\n",)}),
        ({"until": ["\n\n", "", "class"], "max_gen_toks": 7}, {"stop": ("\n\n", "class"), "max_new_tokens": 7}),
        ({"max_tokens": 5, "max_new_tokens": 6}, {"max_new_tokens": 6}),
        ({"do_sample": False, "temperature": 0.8, "top_p": 0.9}, {"temperature": 0.0, "top_p": 1.0}),
        ({"do_sample": True}, {"temperature": 1.0, "seed": 11}),
        ({"do_sample": True, "temperature": 0.0}, {"temperature": 0.0, "seed": None}),
        ({"temperature": 0.8, "top_p": 0.95, "top_k": 3}, {"temperature": 0.8, "top_p": 0.95, "top_k": 3}),
        ({"repetition_penalty": 1.2, "num_beams": 1, "top_p": None}, {"repetition_penalty": 1.2, "num_beams": 1}),
    ],
)
def test_arguments_of_tasks(asked: dict[str, Any], fields: dict[str, Any]) -> None:
    before = dict(asked)
    params = generation_params(asked, 256, 11)
    assert {name: getattr(params, name) for name in fields} == fields
    assert params.prompt_overflow == "cut-left"
    assert asked == before


def test_unknown_arguments_are_named() -> None:
    with pytest.raises(InvalidInputError, match="asks for num_beams=4, penalty_alpha=0.6, which is not done here"):
        generation_params({"num_beams": 4, "penalty_alpha": 0.6, "until": []}, 256, 0)
