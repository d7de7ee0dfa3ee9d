"""`generate --preset`: the preset's values, unless the user gives others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from codegen_edge.bundle import Bundle
from codegen_edge.cli import cli
from codegen_edge.generation.presets import PRESETS

SPELLED_OUT = (
    *("--temperature", "0.2", "--top-p", "0.95", "--seed", "42", "--single-block"),
    *("--truncate-before", "^#", "--truncate-before", r"<\|endoftext\|>", "--truncate-before", "^'''"),
    *("--truncate-before", '^"""', "--truncate-before", "\n\n\n"),
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The fields of every GenerationParams that a command makes; the model is not loaded."""
    seen: list[dict[str, Any]] = []

    def take(**fields: Any) -> None:
        seen.append(fields)
        raise KeyboardInterrupt

    monkeypatch.setattr("codegen_edge.generation.GenerationParams", take)
    return seen


def test_preset_is_its_values_spelled_out(tiny_bundle: Bundle) -> None:
    base = ["generate", str(tiny_bundle.path), "--prompt", "def f():\n", "--json", "--max-new-tokens", "24"]
    texts = []
    for options in (("--preset", "codegen-paper"), SPELLED_OUT):
        done = CliRunner().invoke(cli, [*base, *options], catch_exceptions=False)
        texts.append(json.loads(done.stdout)["token_ids"])
    assert texts[0] == texts[1]


@pytest.mark.parametrize("name", PRESETS)
def test_preset_gives_every_field(asked: list[dict[str, Any]], name: str) -> None:
    CliRunner().invoke(cli, ["generate", "none", "--prompt", "x", "--preset", name])
    assert PRESETS[name].items() <= asked[0].items()
    assert asked[0]["top_k"] == 0


def test_options_that_are_given_go_before_the_preset(asked: list[dict[str, Any]]) -> None:
    options = ("--temperature", "0.8", "--seed", "1", "--no-single-block", "--truncate-before", "x", "--top-p", "1.0")
    CliRunner().invoke(cli, ["generate", "none", "--prompt", "x", *options, "--preset", "codegen-paper"])
    (fields,) = asked
    assert (fields["temperature"], fields["seed"], fields["top_p"]) == (0.8, 1, 1.0)
    assert (fields["single_block"], fields["truncate_before"]) == (False, ("x",))
    assert fields["max_new_tokens"] == 128


def test_greedy_choice_leaves_the_presets_filters_out(asked: list[dict[str, Any]]) -> None:
    CliRunner().invoke(cli, ["generate", "none", "--prompt", "x", "--temperature", "0", "--preset", "codegen-paper"])
    (fields,) = asked
    assert (fields["temperature"], fields["top_p"], fields["single_block"]) == (0.0, 1.0, True)


def test_unknown_preset_is_one_line(asked: list[dict[str, Any]]) -> None:
    done = CliRunner().invoke(cli, ["generate", "none", "--prompt", "x", "--preset", "paper"])
    assert "--preset must be one of codegen-paper, codegen-paper-mtpb, got 'paper'" in str(done.exception)
    assert not asked
