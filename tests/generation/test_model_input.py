"""What a model is given by its users: prompts as texts or ids, and options of the wrong type, which are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from codegen_edge import load_model
from codegen_edge.bundle import Bundle
from codegen_edge.errors import InvalidInputError
from codegen_edge.generation.model import Model

PROMPTS = ("def hello_world():", "import os\n")


@pytest.fixture(scope="module")
def model(tiny_bundle: Bundle) -> Model:
    return load_model(tiny_bundle.path)


def test_token_ids_are_continued_as_their_text_is(model: Model) -> None:
    ids = [model.tokenizer.encode(prompt) for prompt in PROMPTS]
    expected = [completion.token_ids for completion in model.generate(PROMPTS, max_new_tokens=8)]
    assert model.generate(ids[0], max_new_tokens=8).token_ids == expected[0]
    assert model.generate(tuple(ids[0]), max_new_tokens=8).token_ids == expected[0]
    assert model.generate(np.array(ids[0]), max_new_tokens=8).token_ids == expected[0]  # type: ignore[call-overload]
    assert [each.token_ids for each in model.generate(ids, max_new_tokens=8)] == expected
    assert [event.token_id for event in model.stream(ids[1], max_new_tokens=8)] == list(expected[1])
    assert model.generate(ids[0], max_new_tokens=4, num_beams=2).prompt_tokens == len(ids[0])


def test_a_stream_gives_one_event_at_a_time(model: Model) -> None:
    stream = model.stream(PROMPTS[0], max_new_tokens=4)
    first = next(stream)
    assert [first.token_id, *(event.token_id for event in stream)] == list(stream.completions[0].token_ids)


@pytest.mark.parametrize(
    "prompt",
    [5, None, b"abc", [b"abc"], ["a", [1]], [[1], "a"], [1, "a"], [1, True], [1.5], [[1], None], {"a": 1}, [[]], [-1]],
    ids=repr,
)
def test_what_is_no_prompt_is_refused(model: Model, prompt: Any) -> None:
    with pytest.raises(InvalidInputError):
        model.generate(prompt, max_new_tokens=1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda _: load_model(123), "path must be the path"),  # type: ignore[arg-type]
        (lambda _: load_model(None), "path must be the path"),  # type: ignore[arg-type]
        (lambda model: load_model(model.bundle.path, threads="a"), r"threads must be an integer in 1…\d+ .*, got 'a'"),
        (lambda model: load_model(model.bundle.path, threads=1.5), "threads must be an integer"),
        (lambda model: load_model(model.bundle.path, threads=True), "threads must be an integer"),
        (lambda model: model.session().append(5), "text must be a string, got int"),
        (lambda model: model.session().rewind(1.5), "num_tokens must be an integer, got 1.5"),
        (lambda model: model.session().rewind(True), "num_tokens must be an integer"),
    ],
)
def test_an_argument_of_the_wrong_type_is_refused_by_name(
    model: Model, call: Callable[[Model], object], words: str
) -> None:
    with pytest.raises(InvalidInputError, match=words):
        call(model)
