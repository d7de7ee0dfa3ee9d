"""The options of `generate` that say which texts are allowed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codegen_edge.bundle import Bundle
from tests.cli.running import Run

SCHEMA = '{"type": "object", "properties": {"a": {"enum": [7]}}, "required": ["a"], "additionalProperties": false}'


def generated(run: Run, bundle: Bundle, *options: object) -> str:
    done = run("generate", bundle.path, "--prompt", "x = ", "--max-new-tokens", 60, "--json", *options)
    assert done.code == 0, done
    completion = json.loads(done.stdout)
    assert completion["finish_reason"] == "stop"
    return str(completion["text"])


@pytest.mark.parametrize("is_file", [False, True])
def test_json_schema_is_a_text_or_a_file(run: Run, tiny_bundle: Bundle, tmp_path: Path, is_file: bool) -> None:
    file = tmp_path / "schema.json"
    file.write_text(SCHEMA)
    assert json.loads(generated(run, tiny_bundle, "--json-schema", file if is_file else SCHEMA)) == {"a": 7}


@pytest.mark.parametrize("grammar", ['start: "a" "b"', 'root ::= "a" "b"'])
def test_grammar_is_lark_or_gbnf(run: Run, tiny_bundle: Bundle, tmp_path: Path, grammar: str) -> None:
    file = tmp_path / "grammar.txt"
    file.write_text(grammar)
    assert generated(run, tiny_bundle, "--grammar", file) == "ab"


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        (("--regex", "a{3}"), {"aaa"}),
        (("--choice", "yes", "--choice", "no"), {"yes", "no"}),
    ],
)
def test_regex_and_choice(run: Run, tiny_bundle: Bundle, options: tuple[str, ...], texts: set[str]) -> None:
    assert generated(run, tiny_bundle, *options) in texts


@pytest.mark.parametrize("option", ["--json-output", "--python-expression", "--single-line"])
def test_ready_made_ones_are_followed(run: Run, tiny_bundle: Bundle, option: str) -> None:
    done = run("generate", tiny_bundle.path, "--prompt", "x = ", "--max-new-tokens", 20, "--quiet", option)
    assert done.code == 0, done
    text = done.stdout
    if option == "--json-output":
        assert text[0] in "{["
    assert text.rstrip("\n").count("\n") == 0 or option == "--json-output"
