"""Values cross the sandbox's border as tagged JSON: written by the program's process, rebuilt by ours, never pickled.

None, bool, str, finite floats and ints of up to 64 bits stand for themselves; everything else is a list that begins
with its tag: `["tuple", [1, 2]]`, `["ndarray", "<i8", [2], [1, 2]]`. Subclasses are written as their base, by methods
of the base, so that a `list` that overrides `__eq__` or `__iter__` arrives as the plain list that it holds.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

MAX_DEPTH = 64
MAX_ITEMS = 200_000  # of all containers together
MAX_CHARACTERS = 8 << 20  # of all texts together
MAX_ARRAY_BYTES = 64 << 20
MAX_TEXT_OF_OBJECT = 10_000

_DTYPE = re.compile(r"[<>|=]?[biufcUS][0-9]{1,7}")
_PLAIN_INT = 1 << 63
_VIEWS: tuple[type, ...] = (
    type({}.keys()),
    type({}.values()),
    type({}.items()),
    map,
    filter,
    zip,
    enumerate,
    reversed,
    Iterator,
)


class ValueEncodingError(ValueError):
    """A value has no literal form, or is too deep or too large; or what came is no encoded value."""


@dataclass(frozen=True, slots=True)
class Series:
    """A pandas Series, without its index."""

    values: list[object]


@dataclass(frozen=True, slots=True)
class View:
    """Something that was iterated over: the keys of a dict, a map, a generator, a deque.

    Attributes:
        type_name: of the original.
        values: what it yielded.
    """

    type_name: str
    values: list[object]

    def __iter__(self) -> Iterator[object]:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True)
class Opaque:
    """Any other object: what `str()` made of it, and what `float()` did where it could.

    Attributes:
        type_name: of the original.
        text: its `str()`, cut at MAX_TEXT_OF_OBJECT characters.
        number: its `float()`, or None.
    """

    type_name: str
    text: str
    number: float | None

    def __str__(self) -> str:
        return self.text

    def __float__(self) -> float:
        if self.number is None:
            raise TypeError(f"{self.type_name} is no number")
        return self.number


def encode(value: object, *, is_plain: bool = False) -> object:
    """Give the JSON that stands for a value.

    Args:
        value: of any type.
        is_plain: refuse what would be rebuilt as an Opaque.

    Raises:
        ValueEncodingError: it is cyclic, too deep or too large, or `is_plain` forbids its type.
    """
    return _Encoder(is_plain=is_plain).encode(value, MAX_DEPTH)


def decode(encoded: object) -> object:
    """Rebuild a value; numpy's come back as numpy's, a pandas Series as a Series of ours.

    Raises:
        ValueEncodingError: it is not what `encode` gives.
    """
    try:
        return _decode(encoded, MAX_DEPTH)
    except ValueEncodingError:
        raise
    except (TypeError, ValueError, KeyError, IndexError, OverflowError, RecursionError) as exc:
        raise ValueEncodingError("this is no encoded value") from exc


@dataclass(slots=True)
class _Encoder:
    is_plain: bool
    items_left: int = field(default=MAX_ITEMS)
    characters_left: int = field(default=MAX_CHARACTERS)

    def encode(self, value: object, depth: int) -> object:
        if value is None or value is True or value is False:
            return value
        if depth == 0:
            raise ValueEncodingError(f"the value is nested more than {MAX_DEPTH} deep, or contains itself")
        kind = type(value)  # never value.__class__, which an object may choose
        encoded = self._encode_foreign(value, kind, depth)
        if encoded is None:
            encoded = self._encode_scalar(value, kind)
        if encoded is None:
            encoded = self._encode_container(value, kind, depth)
        return self._encode_other(value, kind, depth) if encoded is None else encoded

    def _encode_scalar(self, value: Any, kind: type) -> object:  # Any: each branch knows the type
        if issubclass(kind, int):
            number = int.__pos__(value)
            return number if -_PLAIN_INT <= number < _PLAIN_INT else ["int", self._text(hex(number))]
        if issubclass(kind, float):
            real = float.__pos__(value)
            return real if math.isfinite(real) else ["float", repr(real)]
        if issubclass(kind, str):
            return self._text(str.__str__(value))
        if issubclass(kind, complex):
            return ["complex", repr(complex.real.__get__(value)), repr(complex.imag.__get__(value))]
        if issubclass(kind, bytes | bytearray):
            return ["bytes", self._text(bytes(memoryview(value)).hex())]
        return None

    def _encode_container(self, value: Any, kind: type, depth: int) -> object:  # Any: each branch knows the type
        for base in (list, tuple, set, frozenset):
            if issubclass(kind, base):
                return [base.__name__, self._items(base.__iter__(value), depth)]
        if issubclass(kind, dict):
            pairs = list(islice(dict.items(value), self.items_left + 1))
            return ["dict", [self._items(iter(pair), depth) for pair in pairs]]
        if kind is range:
            return ["range", [self.encode(bound, depth - 1) for bound in (value.start, value.stop, value.step)]]
        return None

    def _encode_foreign(self, value: Any, kind: type, depth: int) -> object:  # Any: classes of absent libraries
        numpy = sys.modules.get("numpy")
        if numpy is not None and issubclass(kind, numpy.ndarray):
            return self._encode_array(numpy.asarray(value).view(numpy.ndarray), depth)
        if numpy is not None and issubclass(kind, numpy.generic) and value.dtype.kind in "biufcUS":
            return ["scalar", value.dtype.str, self.encode(_python_scalar(value), depth - 1)]
        pandas = sys.modules.get("pandas")
        if pandas is not None and hasattr(pandas, "Series") and issubclass(kind, pandas.Series):
            return ["series", self._items(iter(value.tolist()), depth)]
        return None

    def _encode_array(self, array: Any, depth: int) -> object:  # Any: a numpy array, where numpy may be absent
        if array.size > self.items_left:
            raise ValueEncodingError(f"the value has more than {MAX_ITEMS:,} items")
        if array.dtype.kind in "biufcUS":
            items = (_python_scalar(item) for item in array.ravel())
            return ["ndarray", array.dtype.str, list(array.shape), self._items(items, depth)]
        return ["ndarray", "|O", list(array.shape), self._items(iter(array.astype(object).ravel().tolist()), depth)]

    def _encode_other(self, value: Any, kind: type, depth: int) -> object:  # Any: its methods are tried
        if issubclass(kind, _VIEWS) or kind.__name__ == "deque":
            return ["view", self._text(kind.__name__), self._items(iter(value), depth)]
        if self.is_plain:
            raise ValueEncodingError(f"an object of type {kind.__name__} has no literal form")
        try:
            number = repr(float(value))
        except (TypeError, ValueError, OverflowError):
            number = None
        return ["object", self._text(kind.__name__), self._text(str(value)[:MAX_TEXT_OF_OBJECT]), number]

    def _items(self, values: Iterator[object], depth: int) -> list[object]:
        encoded = []
        for value in values:
            self.items_left -= 1
            if self.items_left < 0:
                raise ValueEncodingError(f"the value has more than {MAX_ITEMS:,} items")
            encoded.append(self.encode(value, depth - 1))
        return encoded

    def _text(self, text: str) -> str:
        self.characters_left -= len(text)
        if self.characters_left < 0:
            raise ValueEncodingError(f"the value has more than {MAX_CHARACTERS:,} characters")
        return str(text)


def _python_scalar(item: Any) -> object:  # Any: a numpy scalar
    value: Any = item.item()  # Any: of the type that the array has
    if type(value) is type(item):  # an extended float has no Python twin
        return complex(item) if item.dtype.kind == "c" else float(item)
    plain: object = value
    return plain


def _decode(encoded: object, depth: int) -> object:
    if encoded is None or isinstance(encoded, bool | int | float | str):
        return encoded
    if depth == 0 or not isinstance(encoded, list) or not isinstance(encoded[0], str):
        raise ValueEncodingError("this is no encoded value")
    tag, *rest = encoded
    return _DECODERS[tag](*rest, depth=depth - 1)


def _items_of(encoded: object, depth: int) -> list[object]:
    if not isinstance(encoded, list):
        raise ValueEncodingError("this is no encoded value")
    return [_decode(item, depth) for item in encoded]


def _decode_dict(pairs: list[list[object]], *, depth: int) -> dict[object, object]:
    return {_decode(key, depth): _decode(value, depth) for key, value in pairs}


def _decode_range(bounds: list[int], *, depth: int) -> range:
    return range(*bounds)


def _decode_scalar(dtype: str, item: object, *, depth: int) -> object:
    array: Any = _array(dtype, [], [_decode(item, depth)])  # Any: indexing an array without axes gives a scalar
    return array[()]


def _decode_array(dtype: str, shape: list[int], items: object, *, depth: int) -> object:
    return _array(dtype, shape, _items_of(items, depth))


def _array(dtype: str, shape: list[int], items: list[object]) -> object:
    import numpy as np

    if dtype != "|O" and not _DTYPE.fullmatch(dtype):
        raise ValueEncodingError(f"an array of type {dtype[:20]!r}")
    if np.dtype(dtype).itemsize * len(items) > MAX_ARRAY_BYTES:
        raise ValueEncodingError("an array is too large")
    flat = np.empty(len(items), dtype=dtype)
    for index, item in enumerate(items):
        flat[index] = item
    return flat.reshape([int(size) for size in shape])


_DECODERS: dict[str, Callable[..., object]] = {
    "int": lambda text, depth: int(text, 16),
    "float": lambda text, depth: float(text),
    "complex": lambda real, imag, depth: complex(float(real), float(imag)),
    "bytes": lambda text, depth: bytes.fromhex(text),
    "list": _items_of,
    "tuple": lambda items, depth: tuple(_items_of(items, depth)),
    "set": lambda items, depth: set(_items_of(items, depth)),
    "frozenset": lambda items, depth: frozenset(_items_of(items, depth)),
    "dict": _decode_dict,
    "range": _decode_range,
    "scalar": _decode_scalar,
    "ndarray": _decode_array,
    "series": lambda items, depth: Series(_items_of(items, depth)),
    "view": lambda name, items, depth: View(str(name), _items_of(items, depth)),
    "object": lambda name, text, number, depth: Opaque(str(name), str(text), None if number is None else float(number)),
}
