"""Values survive the way out of the sandbox with their types, and nothing else comes out."""

from __future__ import annotations

import json
import math
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from codegen_edge.evaluation.sandbox import Opaque, Series, View
from codegen_edge.evaluation.sandbox.values import MAX_DEPTH, MAX_ITEMS, ValueEncodingError, decode, encode

Point = namedtuple("Point", "x y")


def carried(value: object, *, is_plain: bool = False) -> object:
    return decode(json.loads(json.dumps(encode(value, is_plain=is_plain))))


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, 0, -1, 2**63 - 1, 2**63, -(2**200), 0.0, 1.5, 1e308, math.inf, -math.inf),
        *("", "text", "\ud800", "é\n", b"", b"\x00\xff", 1 + 2j, complex(math.inf, -0.0)),
        *([], [1, [2.0, "3"]], (), (1,), (1, (2,)), set(), {1, "a"}, frozenset({(1, 2)}), {}, {"a": [1], 2: None}),
        *({(1, 2): {3}}, range(3), range(5, 0, -2), [None, True, 1, 1.0, "1"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_comes_back_as_it_was(value: object) -> None:
    back = carried(value, is_plain=True)
    assert type(back) is type(value)
    assert back == value


def test_types_that_are_equal_stay_apart() -> None:
    back = carried([1, 1.0, True, (1,), [1]])
    assert isinstance(back, list)
    assert [type(item) for item in back] == [int, float, bool, tuple, list]


def test_nan_and_the_sign_of_zero_come_back() -> None:
    back = carried([math.nan, -0.0])
    assert isinstance(back, list)
    assert math.isnan(back[0])
    assert math.copysign(1, back[1]) == -1


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6).reshape(2, 3),
        np.array([1.5, np.nan, -np.inf], np.float32),
        np.array([True, False]),
        np.array(["a", "bcd"]),
        np.array([b"a"]),
        np.array([1 + 2j]),
        np.array(3),
        np.zeros((0, 2)),
        np.array([1, None, "x"], dtype=object),
        np.arange(3, dtype=">u2"),
    ],
    ids=str,
)
def test_a_numpy_array_comes_back(array: np.ndarray[Any, Any]) -> None:
    back = carried(array)
    assert isinstance(back, np.ndarray)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("scalar", [np.int8(3), np.float64(0.1), np.float32(0.1), np.bool_(True), np.str_("a")])
def test_a_numpy_scalar_comes_back(scalar: np.generic) -> None:
    back = carried([scalar])
    assert isinstance(back, list)
    assert type(back[0]) is type(scalar)
    assert back[0] == scalar


def test_an_extended_float_keeps_its_value() -> None:
    assert carried(np.longdouble("0.5")) == 0.5


def test_a_pandas_series_comes_back_as_its_values() -> None:
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    assert carried(pandas.Series([1.5, 2.0])) == Series([1.5, 2.0])


class StandInSeries:
    def tolist(self) -> list[float]:
        return [1.5, 2.0]


def test_a_series_is_known_by_its_class_where_pandas_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", types.ModuleType("pandas"))
    assert isinstance(carried(StandInSeries()), Opaque)
    monkeypatch.setattr(sys.modules["pandas"], "Series", StandInSeries, raising=False)
    assert carried(StandInSeries()) == Series([1.5, 2.0])


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Counter("aab"), {"a": 2, "b": 1}),
        (OrderedDict(a=1), {"a": 1}),
        (defaultdict(list, {1: [2]}), {1: [2]}),
        (Point(1, 2), (1, 2)),
        (bytearray(b"ab"), b"ab"),
    ],
)
def test_a_subclass_comes_back_as_its_base(value: object, plain: object) -> None:
    back = carried(value, is_plain=True)
    assert type(back) is type(plain)
    assert back == plain


class LyingList(list[int]):
    __hash__ = None

    def __eq__(self, other: object) -> bool:
        return True

    def __iter__(self) -> Any:
        return iter([42])


class LyingInt(int):
    def __eq__(self, other: object) -> bool:
        return True

    def __index__(self) -> int:
        return 42

    __hash__ = int.__hash__


class Always:
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return True


def test_objects_that_lie_come_back_as_what_they_hold() -> None:
    assert carried(LyingList([1, 2])) == [1, 2]
    assert carried(LyingList([1, 2])) != [42]
    assert carried(LyingInt(7)) == 7
    assert carried(LyingInt(7)) != 42
    assert carried(Always()) != 42
    assert carried([Always()]) != [42]


@pytest.mark.parametrize(
    "value",
    [Always(), [Always()], {1: (Always(),)}, object, len, Fraction(1, 2)],
    ids=lambda value: type(value).__name__,
)
def test_other_objects_are_refused_where_only_plain_values_are_wanted(value: object) -> None:
    with pytest.raises(ValueEncodingError, match="has no literal form"):
        encode(value, is_plain=True)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({1: 2}.keys(), "dict_keys"),
        ({1: 1}.values(), "dict_values"),
        (map(int, "1"), "map"),
        ((i for i in [1]), "generator"),
        (deque([1]), "deque"),
        (reversed([1]), "list_reverseiterator"),
    ],
)
def test_what_can_be_iterated_over_comes_back_as_a_view(value: object, name: str) -> None:
    back = carried(value)
    assert back == View(name, [1])
    assert isinstance(back, View)
    assert list(back) == [1]
    assert len(back) == 1


def test_an_unknown_object_comes_back_as_its_text_and_number() -> None:
    back = carried(Decimal("1.5"))
    assert back == Opaque("Decimal", "1.5", 1.5)
    assert isinstance(back, Opaque)
    assert (str(back), float(back)) == ("1.5", 1.5)
    textual = carried(Always)
    assert isinstance(textual, Opaque)
    with pytest.raises(TypeError, match="type is no number"):
        float(textual)


def nested(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_values_too_deep_too_large_and_cyclic_are_refused() -> None:
    assert carried(nested(MAX_DEPTH - 1)) == nested(MAX_DEPTH - 1)
    cyclic: list[object] = []
    cyclic.append(cyclic)
    value: object
    for value in (nested(MAX_DEPTH + 1), cyclic):
        with pytest.raises(ValueEncodingError, match="nested more than 64 deep, or contains itself"):
            encode(value)
    large: list[object] = [
        [0] * (MAX_ITEMS + 1),
        np.zeros(MAX_ITEMS + 1),
        iter(int, 1),
        dict.fromkeys(range(MAX_ITEMS)),
    ]
    for value in large:
        with pytest.raises(ValueEncodingError, match="more than 200,000 items"):
            encode(value)
    with pytest.raises(ValueEncodingError, match="characters"):
        encode("x" * (9 << 20))


@pytest.mark.parametrize(
    "encoded",
    [
        {},
        [],
        [1],
        ["unknown"],
        ["list"],
        ["list", 3],
        ["int", "x"],
        ["set", [["list", []]]],
        ["dict", [[1]]],
        ["range", ["a"]],
        ["ndarray", "<i8", [3], [1]],
        ["ndarray", "O; drop", [1], [1]],
        ["ndarray", "<U9999999", [100], [""] * 100],
        ["scalar", "|V8", 1],
        ["bytes", "zz"],
        ["object", "x", "y", "z"],
    ],
    ids=str,
)
def test_what_is_no_encoded_value_is_refused(encoded: object) -> None:
    with pytest.raises(ValueEncodingError):
        decode(encoded)


def test_an_encoded_value_that_is_too_deep_is_refused() -> None:
    encoded: object = 1
    for _ in range(MAX_DEPTH + 1):
        encoded = ["list", [encoded]]
    with pytest.raises(ValueEncodingError):
        decode(encoded)
