"""Sessions: nothing is computed twice, and what comes is what one long prompt would give."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codegen_edge import CancelToken, load_model
from codegen_edge.bundle import Bundle
from codegen_edge.errors import BundleError, CancelledError, ContextLengthError, IntegrityError, InvalidInputError
from codegen_edge.generation.model import Model
from codegen_edge.generation.session import Session


@pytest.fixture(scope="module")
def model(tiny_bundle: Bundle) -> Iterator[Model]:
    with load_model(tiny_bundle.path) as opened:
        yield opened


@pytest.fixture
def fed(model: Model, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of tokens of every step that the runtime makes."""
    counts: list[int] = []
    step = model.runtime.step

    def counting(token_ids: Any, cache: Any, **options: Any) -> Any:
        counts.append(token_ids.shape[1])
        return step(token_ids, cache, **options)

    monkeypatch.setattr(model.runtime, "step", counting)
    return counts


def test_turns_equal_one_long_prompt_and_read_only_what_is_new(model: Model, fed: list[int]) -> None:
    session = model.session()
    session.append("def hello_world():")
    first = session.generate(max_new_tokens=6)
    assert session.text == "def hello_world():" + first.text
    before = session.num_tokens
    session.append("\nimport os\n")
    fed.clear()
    second = session.generate(max_new_tokens=6)
    # The last token of the first turn was never fed.
    assert fed[0] == 1 + len(model.tokenizer.encode("\nimport os\n"))
    assert session.num_tokens == before + fed[0] - 1 + 6

    whole = model.session()
    whole._ids = list(session.token_ids[:-6])
    assert whole.generate(max_new_tokens=6).token_ids == second.token_ids


def test_rewound_session_gives_the_same_again(model: Model, fed: list[int]) -> None:
    session = model.session()
    session.append("class Stack:\n    def push(self, item):\n")
    mark = session.num_tokens
    first = session.generate(max_new_tokens=8)
    session.rewind(mark)
    fed.clear()
    assert session.generate(max_new_tokens=8).token_ids == first.token_ids
    assert fed[0] == 1  # the logits after the last token are wanted anew, nothing else
    with pytest.raises(InvalidInputError, match="cannot be rewound"):
        session.rewind(session.num_tokens + 1)


def test_forks_go_their_own_ways(model: Model, fed: list[int]) -> None:
    session = model.session()
    session.append("for i in range(10):")
    session.generate(max_new_tokens=4)
    fork = session.fork()
    fork.append("\n\n")
    fed.clear()
    assert len(fork.generate(max_new_tokens=4).token_ids) == 4
    assert fed[0] <= 1 + len(model.tokenizer.encode("\n\n"))
    other = session.generate(max_new_tokens=4)
    again = model.session()
    again._ids = list(session.token_ids[:-4])
    assert again.generate(max_new_tokens=4).token_ids == other.token_ids


def test_saved_and_loaded_session_goes_on_as_if_nothing_had_been(model: Model, tmp_path: Path, fed: list[int]) -> None:
    session = model.session()
    session.append("import os\n")
    session.generate(max_new_tokens=5)
    session.append("x = ")
    session.save(tmp_path / "turns.session")
    expected = session.generate(max_new_tokens=8)
    loaded = model.load_session(tmp_path / "turns.session")
    fed.clear()
    assert loaded.generate(max_new_tokens=8).token_ids == expected.token_ids
    assert fed[0] == 1 + len(model.tokenizer.encode("x = "))
    assert loaded.text == session.text


def test_session_that_read_nothing_yet_is_saved_and_loaded(model: Model, tmp_path: Path) -> None:
    session = model.session()
    session.append("import os\n")
    session.save(tmp_path / "new.session")
    assert model.load_session(tmp_path / "new.session").text == "import os\n"


def test_session_of_another_model_is_refused(model: Model, trained_bundle: Bundle, tmp_path: Path) -> None:
    session = model.session()
    session.append("import os\n")
    session.generate(max_new_tokens=2)
    session.save(tmp_path / "a.session")
    with load_model(trained_bundle.path) as other, pytest.raises(IntegrityError, match="another model"):
        other.load_session(tmp_path / "a.session")


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "cut", "other arrays"])
def test_damaged_session_file_is_refused(damage: str, model: Model, tmp_path: Path) -> None:
    path = tmp_path / "a.session"
    session = model.session()
    session.append("import os\n")
    session.generate(max_new_tokens=2)
    session.save(path)
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "other arrays":
        with path.open("wb") as file:
            np.savez(file, a=np.zeros(3))
    else:
        path.write_bytes({"empty": b"", "text": b"hello", "cut": content[: len(content) // 2]}[damage])
    with pytest.raises(BundleError, match="no session"):
        model.load_session(path)


def test_cut_text_leaves_no_token_behind_the_cut(model: Model) -> None:
    plain = model.session()
    plain.append("def hello_world():")
    text = plain.generate(max_new_tokens=20).text
    stop = text[7:9]
    session = model.session()
    session.append("def hello_world():")
    completion = session.generate(max_new_tokens=20, stop=(stop,))
    assert completion.text == text[: text.find(stop)]
    assert session.text == "def hello_world():" + completion.text


def test_cancelled_generation_leaves_the_text_and_a_usable_session(model: Model) -> None:
    session = model.session()
    session.append("def hello_world():")
    cancel = CancelToken()
    with pytest.raises(CancelledError):
        for count, _ in enumerate(session.stream(max_new_tokens=50, cancel=cancel)):
            if count == 3:
                cancel.cancel()
    assert session.text == "def hello_world():"
    expected = model.generate("def hello_world():", max_new_tokens=6)
    assert session.generate(max_new_tokens=6).token_ids == expected.token_ids


def test_stream_left_early_leaves_the_text(model: Model) -> None:
    session = model.session()
    session.append("def hello_world():")
    stream = session.stream(max_new_tokens=50)
    next(iter(stream))
    stream.close()  # type: ignore[attr-defined]
    assert session.text == "def hello_world():"
    expected = model.generate("def hello_world():", max_new_tokens=4)
    assert session.generate(max_new_tokens=4).token_ids == expected.token_ids


def test_long_session_is_cut_from_the_left_when_asked(model: Model) -> None:
    session = model.session()
    for _ in range(30):
        session.append("import os\nimport sys\n")
    assert session.num_tokens > model.runtime.config.context_length
    with pytest.raises(ContextLengthError, match="cut-left"):
        session.generate(max_new_tokens=8)
    before = session.token_ids
    for turn in (1, 2):
        expected = model.session()
        expected._ids = list(session.token_ids[-(model.runtime.config.context_length - 8) :])
        completion = session.generate(max_new_tokens=8, prompt_overflow="cut-left")
        assert completion.token_ids == expected.generate(max_new_tokens=8).token_ids
        assert completion.prompt_tokens == model.runtime.config.context_length - 8
        assert session.num_tokens == len(before) + 8 * turn  # what was cut is not read, and not forgotten


def test_text_that_fits_no_context_is_refused_and_leaves_the_session_as_it_was(model: Model) -> None:
    session = model.session()
    session.append("x = 1\n")
    with pytest.raises(ContextLengthError, match="10,000,000 characters"):
        session.append("def f(): \n" * 1_000_000)
    assert session.text == "x = 1\n"


def test_session_refuses_what_has_several_texts_and_an_empty_one(model: Model) -> None:
    session: Session = model.session()
    with pytest.raises(InvalidInputError, match="empty"):
        session.generate()
    session.append("a")
    with pytest.raises(InvalidInputError, match="one text"):
        session.generate(num_beams=2)
    with pytest.raises(InvalidInputError, match="one text"):
        session.generate(n=2, temperature=1.0)


def test_session_refuses_to_change_under_a_stream(model: Model, tmp_path: Path) -> None:
    session = model.session()
    session.append("def hello_world():")
    stream = iter(session.stream(max_new_tokens=50))
    next(stream)
    actions: list[Any] = [
        lambda: session.append("x"),
        lambda: session.rewind(0),
        session.fork,
        session.generate,
        session.stream,
        lambda: session.save(tmp_path / "a.session"),
    ]
    for action in actions:
        with pytest.raises(InvalidInputError, match="still runs"):
            action()
    del stream
    session.append("\n")
    assert session.generate(max_new_tokens=4).token_ids


def test_stream_left_within_a_draft_leaves_a_session_that_can_be_saved(model: Model, tmp_path: Path) -> None:
    session = model.session()
    session.append("import os\nimport os\nimport os\nimport")
    for count in range(1, 12):
        stream = iter(session.stream(max_new_tokens=40, draft="prompt-lookup"))
        for _ in range(count):
            next(stream)
        stream.close()  # type: ignore[attr-defined]
        session.save(tmp_path / "a.session")
        loaded = model.load_session(tmp_path / "a.session")
        assert loaded.generate(max_new_tokens=6).token_ids == model.generate(session.text, max_new_tokens=6).token_ids


def test_cancel_that_comes_with_the_last_token_does_not_stop_the_next_generation(model: Model) -> None:
    session = model.session()
    session.append("def hello_world():")
    cancel = CancelToken()
    for event in session.stream(max_new_tokens=3, cancel=cancel):
        if event.finish_reason:
            cancel.cancel()
    assert len(session.generate(max_new_tokens=3).token_ids) == 3


def test_progress_of_a_turn_ends_at_its_total(model: Model) -> None:
    session = model.session()
    session.append("import os\n")
    session.generate(max_new_tokens=2)
    session.append("import sys\n")
    told: list[tuple[int, int]] = []
    session.generate(max_new_tokens=2, on_prefill=lambda *at: told.append(at))
    assert told[-1][0] == told[-1][1]
