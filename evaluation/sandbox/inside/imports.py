"""What a program imports, imported by us: tests that use `math` get Python's, not what the program made of it."""

from __future__ import annotations

import ast
import contextlib
import importlib
import types
from collections.abc import Callable


def imported_names(program: str, is_wanted: Callable[[str], bool] = lambda name: True) -> dict[str, object]:
    """Do the top-level imports of a program that can be done.

    Args:
        program: its text, which must be Python.
        is_wanted: which of the names that it binds matter.

    Returns:
        What each name stands for. Modules are copies, which stay as they are when the program patches the originals.
    """
    found: dict[str, object] = {}
    for statement in ast.parse(program).body:
        if not isinstance(statement, ast.Import | ast.ImportFrom):
            continue
        for alias in statement.names:
            name = alias.asname or alias.name.partition(".")[0]
            if name != "*" and is_wanted(name):
                with contextlib.suppress(ImportError, AttributeError):
                    found[name] = _copied(_import(statement, alias))
    return found


def _import(statement: ast.Import | ast.ImportFrom, alias: ast.alias) -> object:
    if isinstance(statement, ast.Import):
        module = importlib.import_module(alias.name)
        return module if alias.asname else importlib.import_module(alias.name.partition(".")[0])
    if statement.level or statement.module is None:
        raise ImportError("a program has no package")
    return getattr(importlib.import_module(statement.module), alias.name)


def _copied(value: object) -> object:
    if not isinstance(value, types.ModuleType):
        return value
    copy = types.ModuleType(value.__name__)
    vars(copy).update(vars(value))
    return copy
