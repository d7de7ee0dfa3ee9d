from __future__ import annotations

from typing import Any

import pytest

from codegen_edge.bundle import Bundle
from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.speed.settings import SpeedSettings


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rounds": 1}, "rounds must be in 2…1000, got 1: one round has no range"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"new_tokens": 1}, "new_tokens must be in 2…1048576, got 1"),
        ({"prompt_tokens": 0}, "prompt_tokens must be in 1…1048576, got 0"),
        ({"batch": 0}, "batch must be in 1…1024, got 0"),
    ],
)
def test_what_is_out_of_range_is_named(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        SpeedSettings(**fields)
    assert words in str(caught.value)


def test_a_row_beyond_the_context_is_refused_with_both_numbers(tiny_bundle: Bundle) -> None:
    SpeedSettings(prompt_tokens=64, new_tokens=64).check_room(tiny_bundle, None)
    with pytest.raises(InvalidInputError) as caught:
        SpeedSettings(prompt_tokens=65, new_tokens=64, batch=3).check_room(tiny_bundle, None)
    assert "are 129 tokens in each of 3 rows" in str(caught.value)
    assert "holds 128" in str(caught.value)


def test_a_cache_beyond_the_memory_is_refused_with_both_numbers(tiny_bundle: Bundle) -> None:
    settings = SpeedSettings(prompt_tokens=64, new_tokens=64, batch=1000)
    settings.check_room(tiny_bundle, 131_072_000)  # rows x tokens x 2 x layers x heads x head_dim x 4 bytes
    with pytest.raises(InvalidInputError, match=r"cache of 0\.1 GB .* has 0\.1 GB"):
        settings.check_room(tiny_bundle, 131_071_999)
