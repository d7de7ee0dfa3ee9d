"""Tests count the assertions that they reach: without it, a program that ends `check` early would look right."""

from __future__ import annotations

import ast
import builtins
import types
from typing import Any

_HELD = "__assertion_held__"


class TestsError(Exception):
    """The tests themselves are no Python, or define no `check`."""

    __test__ = False  # pytest: this is no test


def compile_tests(tests: str) -> types.CodeType:
    """Compile tests so that each `assert` that holds calls a counter.

    Raises:
        TestsError: they are no Python, or define no `check`.
    """
    try:
        tree = _CountAssertions().visit(ast.parse(tests))
        code = compile(ast.fix_missing_locations(tree), "<tests>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        raise TestsError(f"the tests are no Python: {exc}") from exc
    if "check" not in code.co_names:
        raise TestsError("the tests define no function check")
    return code


def names_in(code: types.CodeType) -> set[str]:
    """Every global name and attribute that the code and its functions use, builtins left out."""
    names = {name for name in code.co_names if not hasattr(builtins, name)}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= names_in(constant)
    return {name for name in names if not name.startswith("__")}


def run_check(code: types.CodeType, namespace: dict[str, object], candidate: object) -> int:
    """Run the tests' `check(candidate)`.

    Args:
        code: of `compile_tests`.
        namespace: the names that the tests find, `__builtins__` among them.
        candidate: what they call.

    Returns:
        How many assertions held.

    Raises:
        BaseException: whatever the tests or the candidate raise.
    """
    num_held = 0

    def held() -> None:
        nonlocal num_held
        num_held += 1

    tests: dict[str, Any] = {**namespace, "__name__": "tests", _HELD: held}  # Any: check is called
    tests.pop("check", None)  # the program's is not the tests'
    exec(code, tests)
    tests["check"](candidate)
    return num_held


class _CountAssertions(ast.NodeTransformer):
    def visit_Assert(self, node: ast.Assert) -> list[ast.stmt]:
        call = ast.Call(func=ast.Name(id=_HELD, ctx=ast.Load()), args=[], keywords=[])
        return [node, ast.copy_location(ast.Expr(value=call), node)]
