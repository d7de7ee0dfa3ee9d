"""When the paper's harness takes a printed value for the expected one.

Rebuilt from what `check_equivalence` in codegen1/benchmark/mtpb_exec.py of salesforce/CodeGen does, so that figures can
be compared with the paper's. It cannot pass an expected dict or None: 7 of MTPB's 575 cases.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from codegen_edge.evaluation.sandbox.values import Opaque, Series

TOLERANCE = 1e-6
"""Between floats, absolute."""

_WHOLE = (np.uint8, np.int16, np.int32, np.int64)
_REAL = (np.float16, np.float32, np.float64)
_CASTS = (int, float, str, list)  # types of expected values that a value is cast to


def published_equivalence(expected: object, value: object) -> bool:
    """Whether the published harness passes `value`.

    A pandas Series is compared by `numpy.allclose`, which broadcasts. Everything else is cast to the expected type, so
    2.9 passes for 2 and "abc" for ["a", "b", "c"]. A bool is compared as text. Floats may differ by TOLERANCE, floats
    in lists may not differ.

    Args:
        expected: of the data: a bool, int, float, str or list. The harness raises for a dict and for None.
        value: what the program's last print was given, as the sandbox rebuilt it.

    Returns:
        False too where the published function raises.
    """
    try:
        if isinstance(value, Series):
            return _all_close(value.values, expected)
        plain = without_numpy(value)
        if isinstance(expected, bool):
            return str(plain) == str(expected)
        if not isinstance(expected, _CASTS):
            return False
        return _equal_after_cast(expected, plain)
    except (TypeError, ValueError, ArithmeticError):
        return False


def without_numpy(value: object) -> Any:
    """A numpy scalar or array as Python's own; a list of tuples, judged by its first element, as a list of lists."""
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        return [list(each) for each in value]
    if isinstance(value, _WHOLE):
        return int(value)
    if isinstance(value, _REAL):
        return float(value)
    if isinstance(value, np.bool_):
        return bool(value)
    return value.tolist() if isinstance(value, np.ndarray) else value


def in_order(values: Iterable[Any]) -> list[Any]:
    """The elements of a set, sorted where they can be. Python's own order of texts changes with every process, and a
    verdict must not."""
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=repr)


def _all_close(values: list[object], expected: object) -> bool:
    with np.errstate(all="ignore"):
        return bool(np.allclose(np.asarray(values), np.array(expected)))


def _equal_after_cast(expected: object, value: Any) -> bool:
    if isinstance(value, set | frozenset) and isinstance(expected, list):
        value = in_order(value)
    if isinstance(value, Opaque) and isinstance(expected, int):
        value = value.number  # what was an integer or a fraction of another library
    cast = type(expected)(value)  # type: ignore[call-arg]
    if isinstance(expected, float):
        return bool(abs(cast - expected) < TOLERANCE)  # type: ignore[operator]
    return bool(cast == expected)
