"""The release's sampling and its truncation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from codegen_edge.errors import InvalidInputError
from codegen_edge.generation import GenerationParams, TextAssembler
from codegen_edge.generation.presets import PAPER_TRUNCATION, PRESETS, preset_fields, preset_params
from codegen_edge.generation.text import Cut
from codegen_edge.tokenizer import Tokenizer

PIECES = st.lists(
    st.sampled_from(
        [
            "\n",
            "\n\n",
            "\n\n\n",
            "print(1)",
            "def f():",
            "    return 1",
            "#",
            "'''",
            '"""',
            "<|endoftext|>",
            "x",
            "\r\n",
        ]
    ),
    max_size=14,
).map("".join)


def reference(completion: str) -> str:
    """The rule, step by step: a second print, a second def, then the earliest of five patterns."""
    for word in ("print", "def"):
        starts = [found.start() for found in re.finditer(f"^{word}", completion, re.MULTILINE)]
        if len(starts) >= 2:
            completion = completion[: starts[1]]
    patterns = ("^#", re.escape("<|endoftext|>"), "^'''", '^"""', "\n\n\n")
    matches = [re.compile(pattern, re.MULTILINE).search(completion, 0) for pattern in patterns]
    return completion[: min((match.start() for match in matches if match is not None), default=len(completion))]


@given(PIECES)
@example("\nif len_a > len_b:\n    result = a\nelse:\n    result = b\n\n\n\n#")  # the self-test of both scripts
@example("print(1)\nprint(2)\n")
@example("# at once")
def test_truncation_is_the_releases(completion: str) -> None:
    assert completion[: Cut(**PAPER_TRUNCATION).find(completion)] == reference(completion)


@given(completion=PIECES)
def test_truncation_of_a_stream_is_the_releases(completion: str, tiny_tokenizer: Tokenizer) -> None:
    """Token by token, as `generate` cuts; an end of text that the model chooses brings no text at all."""
    assembler = TextAssembler.for_params(tiny_tokenizer, preset_params("codegen-paper"))
    ids = [each for each in tiny_tokenizer.encode(completion) if each != tiny_tokenizer.end_of_text_id]
    text = "".join(map(assembler.add, ids)) + assembler.finish()
    assert text == reference(tiny_tokenizer.decode(ids))


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_checkpoint: Path) -> Tokenizer:
    return Tokenizer(tiny_checkpoint / "tokenizer.json")


@pytest.mark.parametrize(
    ("name", "max_new_tokens", "seed"), [("codegen-paper", 128, 42), ("codegen-paper-mtpb", 256, 16)]
)
def test_values_are_the_scripts_defaults(name: str, max_new_tokens: int, seed: int) -> None:
    params = preset_params(name)
    assert (params.temperature, params.top_p) == (0.2, 0.95)
    assert (params.max_new_tokens, params.seed) == (max_new_tokens, seed)
    assert params.single_block
    assert len(params.truncate_before) == 5


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_given_goes_before_the_preset(name: str) -> None:
    params = preset_params(name, temperature=0.8, max_new_tokens=7, single_block=False)
    assert params == GenerationParams(**{
        **PRESETS[name], "temperature": 0.8, "max_new_tokens": 7, "single_block": False
    })  # fmt: skip
    greedy = preset_params(name, temperature=0)
    assert (greedy.temperature, greedy.top_p, greedy.single_block) == (0, 1.0, True)


def test_presets_are_not_changed_by_who_takes_them() -> None:
    preset_fields("codegen-paper")["temperature"] = 1.0
    assert PRESETS["codegen-paper"]["temperature"] == 0.2


def test_unknown_preset_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="no preset 'paper'; there are: codegen-paper, codegen-paper-mtpb"):
        preset_params("paper")
