"""The options of `generate` that say which texts are allowed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from codegen_edge.cli.paths import PATH
from codegen_edge.cli.texts import read_text
from codegen_edge.errors import InvalidInputError

if TYPE_CHECKING:
    from codegen_edge.generation.constraints import Grammar

_Command = TypeVar("_Command", bound=Callable[..., Any])

_FLAGS = {
    "json_output": "--json-output",
    "json_schema": "--json-schema",
    "regex": "--regex",
    "choice": "--choice",
    "grammar": "--grammar",
    "python_expression": "--python-expression",
    "single_line": "--single-line",
}
_OPTIONS = (
    click.option("--json-output", is_flag=True, help="Generate a JSON object or array. (--json is the report's form.)"),
    click.option("--json-schema", metavar="FILE|TEXT", help="Generate JSON that is valid against a schema."),
    click.option("--regex", metavar="REGEX", help="Generate what the expression matches as a whole."),
    click.option("--choice", multiple=True, metavar="TEXT", help="Generate one of these; give it several times."),
    click.option("--grammar", type=PATH, metavar="FILE", help="Generate by a grammar in Lark or GBNF."),
    click.option("--python-expression", is_flag=True, help="Generate a Python expression on one line."),
    click.option("--single-line", is_flag=True, help="Generate one line, and end with it."),
)


def grammar_options(command: _Command) -> _Command:
    """Add the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def take_grammar(params: dict[str, Any]) -> Grammar | None:
    """Take the options out of a command's parameters; the one grammar that they describe, or None.

    Raises:
        InvalidInputError: several were given, a file cannot be read, or a description is malformed.
    """
    values = {name: params.pop(name) for name in _FLAGS}
    given = [name for name, value in values.items() if value not in (None, False, ())]
    if len(given) > 1:
        raise InvalidInputError(f"{' and '.join(_FLAGS[name] for name in given)} do not go together; give one of them")
    return _grammar(given[0], values[given[0]]) if given else None


def _grammar(name: str, value: Any) -> Grammar:
    from codegen_edge.generation.constraints import Grammar

    ready_made = {
        "json_output": Grammar.any_json,
        "python_expression": Grammar.python_expression,
        "single_line": Grammar.single_line,
    }
    if name in ready_made:
        return ready_made[name]()
    if name == "json_schema":
        return Grammar.json_schema(_text_or_file(value))
    if name == "grammar":
        return Grammar.of_text(read_text(value))
    return Grammar.regex(value) if name == "regex" else Grammar.choice(value)


def _text_or_file(value: str) -> str:
    if not value.strip():
        raise InvalidInputError("--json-schema is empty; give a file, or the schema itself")
    return value if value.lstrip().startswith("{") else read_text(Path(value))
