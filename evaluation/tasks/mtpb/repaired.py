"""When we take a printed value for the expected one: the published rule without its faults.

What could never pass, or not reliably, and passes here:
- an expected dict (problem 89): equal keys, as texts since JSON has no other ones, and equal values;
- an expected None (two cases of problem 41): None itself, or the text "None" that the problem asks to print;
- floats in lists and dicts: within the tolerance that floats by themselves have;
- large floats: within a relative tolerance too; the published 1e-6 asks for the very same float from 2**33 on;
- numpy values, tuples and Series anywhere in a list, and not only by its first element.

What passed by a cast and does not pass here:
- a fraction for an integer (2.9 for 2);
- a text for the list of its characters, a dict for the list of its keys;
- a Series that must be broadcast to the expected shape.

As published: a bool is compared as text, so "True" passes for True and 1 does not; a text is compared with the value's
`str`; a text that reads as the expected number passes for it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from codegen_edge.evaluation.sandbox.values import Opaque, Series, View
from codegen_edge.evaluation.tasks.mtpb.published import TOLERANCE, in_order, without_numpy

RELATIVE_TOLERANCE = 1e-9
"""Between floats: sums of the same numbers in another order differ by far less, wrong results by far more."""


def repaired_equivalence(expected: object, value: object) -> bool:
    """Whether a program that printed `value` is right.

    Args:
        expected: of the data, so of JSON's types.
        value: what the program's last print was given, as the sandbox rebuilt it.
    """
    if expected is None:
        return value is None or (isinstance(value, str) and value == "None")
    if isinstance(expected, bool | str):
        return not isinstance(value, Series | View) and _as_text(value) == str(expected)
    if isinstance(expected, int | float) and isinstance(value, str):
        return _same_number(expected, _number(value))
    return _same(expected, value)


def _as_text(value: object) -> str | None:
    try:
        return str(without_numpy(value))
    except (TypeError, ValueError):  # a list of a tuple and no tuple; an integer of too many digits
        return None


def _same(expected: object, value: object) -> bool:
    """Equality within a list or a dict: nothing is cast there."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        value = value.item()
    if isinstance(expected, dict):
        return isinstance(value, dict) and _same_dict(expected, value)
    if isinstance(expected, list):
        elements = _elements(value)
        return elements is not None and len(elements) == len(expected) and all(map(_same, expected, elements))
    if isinstance(expected, int | float):
        return _same_number(expected, value)
    return type(expected) is type(value) and expected == value


def _same_dict(expected: dict[str, Any], value: dict[Any, Any]) -> bool:
    by_text = {str(key): each for key, each in value.items()}
    return (
        len(by_text) == len(value)
        and by_text.keys() == expected.keys()
        and all(_same(each, by_text[key]) for key, each in expected.items())
    )


def _elements(value: object) -> list[Any] | None:
    if isinstance(value, list | tuple | range | np.ndarray):
        return list(value)
    if isinstance(value, set | frozenset):
        return in_order(value)
    return value.values if isinstance(value, Series | View) else None


def _number(text: str) -> int | float | None:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return None


def _same_number(expected: float, value: object) -> bool:
    if isinstance(value, Opaque):
        value = value.number  # of another library, such as a Decimal
    if not isinstance(value, int | float):
        return False
    try:
        return expected == value or math.isclose(expected, value, rel_tol=RELATIVE_TOLERANCE, abs_tol=TOLERANCE)
    except OverflowError:  # an integer beyond all floats
        return False
