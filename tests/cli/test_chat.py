"""`codegen-edge chat`, and the options that `generate` shares with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from codegen_edge import load_model
from codegen_edge.bundle import Bundle
from codegen_edge.cli import cli
from codegen_edge.errors import InvalidInputError


def chat(bundle: Bundle, *lines: str, options: tuple[str, ...] = ()) -> Result:
    return CliRunner().invoke(
        cli, ["chat", str(bundle.path), "--max-new-tokens", "6", *options], input="".join(f"{line}\n" for line in lines)
    )


def test_turns_make_one_program(tiny_bundle: Bundle) -> None:
    result = chat(tiny_bundle, "def hello_world():", "import os", "/show", "/quit")
    assert result.exit_code == 0, result.output
    with load_model(tiny_bundle.path) as model:
        session = model.session()
        session.append("def hello_world():\n")
        first = session.generate(max_new_tokens=6).text
        session.append(("" if session.text.endswith("\n") else "\n") + "import os\n")
        second = session.generate(max_new_tokens=6).text
        assert first in result.stdout
        assert second in result.stdout
        assert session.text in result.stdout


def test_undo_forgets_a_turn_and_an_empty_line_goes_on(tiny_bundle: Bundle) -> None:
    result = chat(tiny_bundle, "def hello_world():", "", "/undo", "/undo", "/show", "/undo")
    assert result.exit_code == 0
    assert "/undo cannot be done" in result.stderr


def test_session_is_saved_and_loaded(tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "turns.session"
    first = chat(tiny_bundle, "def hello_world():", f"/save-session {path}", "/show")
    second = chat(tiny_bundle, f"/load {path}", "/show", "/load nothing.session", "/dance", "/help")
    program = second.stdout.rstrip("\n")
    assert program.startswith("def hello_world():\n")
    assert first.stdout.endswith(second.stdout)
    assert "no session that can be read" in second.stderr
    assert "/dance cannot be done" in second.stderr


def test_too_long_a_turn_is_an_error_and_the_program_stays(tiny_bundle: Bundle) -> None:
    result = chat(tiny_bundle, "x = 1", "import os " * 200, "/show")
    assert result.exit_code == 0
    assert "error: the prompt has" in result.stderr
    assert "\nx = 1\n" in result.stdout


def test_program_is_saved_as_text_and_never_over_a_file(tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    result = chat(tiny_bundle, "x = 1", f"/save {path}", f"/save {path}", f"/save-session {path}", f"/save {tmp_path}")
    assert path.read_text().startswith("x = 1\n")
    assert result.stderr.count(f"{path} exists, and nobody can be asked") == 2
    assert "no regular file" in result.stderr


def test_settings_are_shown_and_changed(tiny_bundle: Bundle) -> None:
    lines = ("/set max-new-tokens 2", "/set stop \\n\\n", "/set single-block on", "x = 1", "/settings")
    wrong = ("/set top-p 0.5", "/set max-new-tokens many", "/set colour red", "/set single-block perhaps")
    result = chat(tiny_bundle, *lines, "/set stop", *wrong, "/set temperature 0.5", options=("--json",))
    assert [len(json.loads(line)["token_ids"]) for line in result.stdout.splitlines()] == [2]
    for shown in (
        "max-new-tokens is 2",
        "stop is '\\n\\n'",
        "single-block is on",
        "stop is none",
        "temperature is 0.5",
    ):
        assert shown in result.stderr
    for error in (
        "give a temperature above 0",
        "'many' is not a valid integer",
        "there is no setting colour",
        "on or off",
    ):
        assert error in result.stderr


def generate(bundle: Bundle, *options: object) -> Result:
    return CliRunner().invoke(cli, ["generate", str(bundle.path), "--prompt", "def f", *map(str, options)])


def test_samples_and_beams_are_given_one_after_another(tiny_bundle: Bundle) -> None:
    sampled = json.loads(
        generate(tiny_bundle, "-n", 3, "--temperature", 1, "--seed", 1, "--max-new-tokens", 4, "--json").output
    )
    assert len(sampled["alternatives"]) == 2
    beams = json.loads(generate(tiny_bundle, "--num-beams", 3, "-n", 2, "--max-new-tokens", 4, "--json").output)
    assert beams["score"] >= beams["alternatives"][0]["score"]
    plain = generate(tiny_bundle, "--num-beams", 3, "-n", 2, "--max-new-tokens", 4)
    assert plain.output.count("--------\n") == 1


def test_logprobs_are_in_the_json(tiny_bundle: Bundle) -> None:
    fields = json.loads(generate(tiny_bundle, "--top-logprobs", 2, "--max-new-tokens", 3, "--json").output)
    assert [len(fields["logprobs"]), len(fields["top_logprobs"][0])] == [3, 2]


@pytest.mark.parametrize("draft", ["prompt-lookup", "bundle"])
def test_draft_changes_nothing(draft: str, tiny_bundle: Bundle) -> None:
    plain = generate(tiny_bundle, "--max-new-tokens", 30)
    drafted = generate(tiny_bundle, "--max-new-tokens", 30, "--draft", tiny_bundle.path if draft == "bundle" else draft)
    assert drafted.exit_code == 0
    assert drafted.stdout == plain.stdout


@pytest.mark.parametrize(
    "options",
    [
        ("--suffix", " \n"),
        ("--min-p", 2),
        ("--num-beams", 2, "--temperature", 1),
        ("--truncate-before", "("),
        ("-n", 2),
    ],
)
def test_bad_options_are_refused_before_the_model_is_loaded(options: tuple[Any, ...], tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["generate", str(tmp_path / "none"), "--prompt", "a", *map(str, options)])
    assert isinstance(result.exception, InvalidInputError)
    assert "bundle" not in str(result.exception)
