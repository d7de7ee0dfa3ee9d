from __future__ import annotations

from typing import Any

import pytest

from codegen_edge.errors import InvalidInputError
from codegen_edge.generation import GenerationParams

NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("max_new_tokens", [0, -1, 1.5, "3", True, None]),
        ("temperature", [-0.1, NAN, INFINITY, 10**400, "1", None, True]),
        ("top_k", [-1, 0.5, "5", None, True]),
        ("top_p", [0, -0.5, 1.1, NAN, "1", None]),
        ("seed", [-1, 2**64, 0.5, "1", True]),
        ("stop", ["text", ("",), (1,), ("ok", ""), 5, None]),
        ("min_new_tokens", [-1, 0.5, None, 10**10]),
        ("max_new_tokens", [10**10]),
        ("top_k", [10**10]),
        ("min_p", [-0.1, 1.1, NAN, None, "1"]),
        ("typical_p", [0, 1.1, NAN, None]),
        ("repetition_penalty", [0, -1, 1e-300, 1e300, NAN, INFINITY, None, "1"]),
        ("presence_penalty", [NAN, INFINITY, -1e300, None, "1"]),
        ("frequency_penalty", [NAN, -INFINITY, None, True]),
        ("no_repeat_ngram_size", [-1, 1.5, None]),
        ("bad_words_ids", [5, ((),), ((-1,),), ("ab",), (5,), None]),
        (
            "logit_bias",
            [5, {-1: 1.0}, {"a": 1.0}, {1: NAN}, {1: INFINITY}, {1: "x"}, {1: True}, {1: 1e300}, {1: 10**400}, None],
        ),
        ("suppressed_ids", [5, (-1,), ("a",), None]),
        ("stop_ids", [5, (-1,), (1.5,), None]),
        ("forced_ids", [5, {-1: 3}, {0: -3}, {0: "a"}, None]),
        ("processors", [5, ("a",), None]),
        ("n", [0, -1, 1.5, None, True, 10**6]),
        ("num_beams", [0, -1, 1.5, None, 10**6]),
        ("single_block", ["no", 1, None]),
        ("top_logprobs", [-1, 0.5, "1", True]),
        ("truncate_before", ["a", ("",), ("(",), ("a{99999999999999}",), None]),
        ("max_seconds", [0, -1, NAN, INFINITY, "1"]),
        ("prompt_overflow", ["cut", None, 5]),
        ("prefill_chunk", [0, -1, 0.5, True]),
    ],
)
def test_value_out_of_range_is_refused_by_name(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(InvalidInputError, match=name):
            GenerationParams(**{"temperature": 1.0, name: value})


@pytest.mark.parametrize("setting", [{"top_k": 5}, {"top_p": 0.5}, {"min_p": 0.1}, {"typical_p": 0.5}, {"n": 2}])
def test_sampling_setting_without_temperature_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match="temperature above 0"):
        GenerationParams(**setting)


def test_edges_of_the_ranges_are_allowed() -> None:
    GenerationParams(max_new_tokens=1, temperature=1e-320, top_k=10**9, top_p=1, seed=2**64 - 1, stop=("a",))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_new_tokens": 5, "max_new_tokens": 4}, "min_new_tokens 5 is more than max_new_tokens 4"),
        ({"length_penalty": 2.0}, "length_penalty belongs to beam search"),
        ({"early_stopping": True}, "early_stopping belongs to beam search"),
        ({"num_beams": 2, "early_stopping": "soon"}, "early_stopping must be"),
        ({"num_beams": 2, "early_stopping": 1}, "early_stopping must be"),
        ({"num_beams": 2, "length_penalty": 1e308}, "length_penalty must be a finite number of at most 10"),
        ({"num_beams": 2, "n": 3}, "n 3 is more than num_beams 2"),
        ({"num_beams": 2, "temperature": 1.0}, "temperature does not go with beam search"),
        ({"num_beams": 2, "stop": ("a",)}, "stop does not go with beam search"),
        ({"num_beams": 2, "top_logprobs": 1}, "top_logprobs does not go with beam search"),
        ({"num_beams": 2, "max_seconds": 1.0}, "max_seconds does not go with beam search"),
    ],
)
def test_contradictory_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        GenerationParams(**settings)
