from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from codegen_edge.evaluation.sandbox.values import Series, View, decode, encode
from codegen_edge.evaluation.tasks.mtpb.checker import equivalent

BOTH: list[tuple[object, object]] = [
    (3, 3),
    (3, np.int64(3)),
    (3, "3"),
    (3, 3.0),
    (1, True),
    (2.5, 2.5000001),
    (2.5, np.float32(2.5)),
    (2.5, "2.5"),
    (2.0, 2),
    (True, np.bool_(True)),
    (True, "True"),
    ("[1, 2]", np.array([1, 2])),
    ("True", True),
    ("3", 3),
    ("", ""),
    ([1, 2], (1, 2)),
    ([1, 2], np.array([1, 2])),
    ([[1, 2], [3, 4]], [(1, 2), (3, 4)]),
    ([1, 2], {2, 1}),
    (["a", "b"], frozenset("ab")),
    (["a", 1], {"a", 1}),
    ([0, 1], range(2)),
    (["a", "b"], View("dict_keys", ["a", "b"])),
    ([1.5, 2.5], Series([1.5, 2.5])),
    ([True, None, "x"], [True, None, "x"]),
    ([], []),
]
NEITHER: list[tuple[object, object]] = [
    (3, 4),
    (3, "x"),
    (3, None),
    (3, [3]),
    (3, float("nan")),
    (3, float("inf")),
    (2.5, 2.6),
    (2.5, float("nan")),
    (True, 1),
    (True, False),
    ("abc", "abd"),
    ("", None),
    ("", [(1,), 2]),
    ("1", Series([1])),
    ("[1]", View("map", [1])),
    ([1, 2], [1, 2, 3]),
    ([1, 2], [2, 1]),
    ([1, 2], 12),
    ([1], ["1"]),
    (["1"], [1]),
    ([1, 2], Series(["a", "b"])),
    ([1, 2], Series([1, 2, 3])),
    ([1], np.array(1)),
    ({"a": 1}, {"a": 2}),
    ({"a": 1}, {"b": 1}),
    ({"a": 1}, [["a", 1]]),
    (None, 0),
    (None, ""),
    (None, np.array([1])),
    ([None], [object()]),
]
REPAIRED: list[tuple[object, object]] = [
    ({"a": [1, 2.5]}, {"a": (1, 2.5)}),
    ({"1": ["a"]}, {1: ["a"]}),
    ({}, {}),
    (None, None),
    (None, "None"),
    ([0.1 + 0.2], [0.3]),
    ([[0.1 + 0.2]], np.array([[0.3]])),
    (1e12 / 3, 333333333333.3334),
    (7e100, 7.000000000001e100),
    ([1, [2, 3]], [1, (2, 3)]),
    ([[1], 2], [(1,), 2]),
    ([[1, 2], [3, 4]], [np.array([1, 2]), np.array([3, 4])]),
    ([[1, 2]], (Series([1, 2]),)),
    (["x"], Series(["x"])),
    (3, "3.0"),
    ([1, 2], [Decimal("1"), Decimal("2.0000001")]),
]
STRICTER: list[tuple[object, object]] = [
    (2, 2.9),
    (2, Decimal("2.9")),
    (["a", "b"], "ab"),
    (["a", "b"], {"a": 1, "b": 2}),
    ([2, 2], Series([2])),
    (2, Series([2, 2])),
]


def as_it_comes(value: Any) -> object:
    """What the sandbox gives for a value; pandas is not needed to write a Series down."""
    parts = value if isinstance(value, tuple) else (value,)
    return value if any(isinstance(part, Series | View) for part in parts) else decode(encode(value))


@pytest.mark.parametrize(
    ("pairs", "ours", "published"),
    [(BOTH, True, True), (NEITHER, False, False), (REPAIRED, True, False), (STRICTER, False, True)],
    ids=["both", "neither", "repaired", "stricter"],
)
def test_verdicts(pairs: list[tuple[object, object]], ours: bool, published: bool) -> None:
    wrong = []
    for expected, value in pairs:
        came = as_it_comes(value)
        if (equivalent(expected, came), equivalent(expected, came, compat=True)) != (ours, published):
            wrong.append((expected, value))
    assert not wrong


def test_every_json_value_is_equivalent_to_itself_in_ours() -> None:
    values: list[object] = [0, -1, 10**400, 1.5, 1e300, True, False, None, "", "a", [], {}, [[{"a": [None, 1.5]}]]]
    assert [value for value in values if not equivalent(value, value)] == []
    assert [value for value in values if not equivalent(value, value, compat=True)] == [None, {}]


def test_numbers_beyond_all_floats_are_compared() -> None:
    for compat in (False, True):
        assert not equivalent(10**400, 1.0, compat=compat)
        assert not equivalent(1.0, 10**400, compat=compat)
        assert not equivalent(1.0, "9" * 5000, compat=compat)
    assert not equivalent("x", 10**5000)
