"""Every failure case of rows.toml is tested, or says why it is not."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]
ROWS: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_name("rows.toml").read_text())
NUM_ROWS = {"F": 17, "P": 18, "C": 13, "W": 17, "R": 10, "G": 25, "B": 25, "S": 25, "X": 10}
FEWEST_TESTED = 150
IDS_OF_A_NAME = re.compile(r"test_((?:[FPCWRGBSX]\d\d_)+)")


@cache
def names_of_tests(file: Path) -> frozenset[str]:
    """Names of a file's tests, those of classes too."""
    return frozenset(
        node.name
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )


def test_every_row_is_there() -> None:
    expected = [f"{area}{number:02}" for area, count in NUM_ROWS.items() for number in range(1, count + 1)]
    assert list(ROWS) == expected
    assert len(ROWS) == 160


@pytest.mark.parametrize("row", ROWS)
def test_row_names_tests_that_exist_or_a_reason(row: str) -> None:
    assert ROWS[row].keys() in ({"what", "tests"}, {"what", "untested"})
    if "untested" in ROWS[row]:
        assert ROWS[row]["untested"]
        return
    assert ROWS[row]["tests"]
    for named in ROWS[row]["tests"]:
        file, _, test = named.partition("::")
        assert test in names_of_tests(TESTS / file), named


def test_most_rows_are_tested() -> None:
    assert sum("tests" in row for row in ROWS.values()) >= FEWEST_TESTED


def test_every_test_with_an_id_is_listed_under_it() -> None:
    missing = [
        f"{row}: {named}"
        for file in sorted(Path(__file__).parent.glob("test_*.py"))
        for test in sorted(names_of_tests(file))
        if (ids := IDS_OF_A_NAME.match(test)) is not None
        for row in ids[1].strip("_").split("_")
        if (named := f"failures/{file.name}::{test}") not in ROWS[row].get("tests", ())
    ]
    assert not missing
