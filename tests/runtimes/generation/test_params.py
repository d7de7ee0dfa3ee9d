from __future__ import annotations

from typing import Any

import pytest

from codegen_edge.errors import InvalidInputError
from codegen_edge.runtimes.generation import GenerationParams

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
    ],
)
def test_value_out_of_range_is_refused_by_name(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(InvalidInputError, match=name):
            GenerationParams(**{"temperature": 1.0, name: value})


@pytest.mark.parametrize("setting", [{"top_k": 5}, {"top_p": 0.5}])
def test_sampling_setting_without_temperature_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match="temperature above 0"):
        GenerationParams(**setting)


def test_edges_of_the_ranges_are_allowed() -> None:
    GenerationParams(max_new_tokens=1, temperature=1e-320, top_k=10**9, top_p=1, seed=2**64 - 1, stop=("a",))
