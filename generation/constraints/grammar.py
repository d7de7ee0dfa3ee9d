"""Descriptions of the texts that a generation may give, not compiled yet."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from codegen_edge.errors import InvalidInputError
from codegen_edge.generation.constraints.json_keywords import check_keywords
from codegen_edge.generation.constraints.python_expression import PYTHON_EXPRESSION
from codegen_edge.strict_json import parse_object

GrammarKind = Literal["json_schema", "regex", "choice", "lark", "gbnf"]

MOST_BYTES = 64 * 1024
"""Of a description as UTF-8: compiling must end in seconds."""

_ANY_JSON = '{"type": ["object", "array"]}'
_JSON_OBJECT = '{"type": "object"}'
_LINE = r"[^\r\n]*\n"
_GBNF_RULE = re.compile(r"^[ \t]*[\w-]+[ \t]*::=", re.MULTILINE)
_LARK_RULE = re.compile(r"^[ \t]*[?!]?[\w-]+[^\n:\"/]*:(?!:=)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Grammar:
    """Which texts are allowed. Made by one of the class methods, compiled with `compile_grammar`.

    Attributes:
        kind: the language of the description.
        text: the description; of a choice, a JSON list.

    Raises:
        InvalidInputError: the description is empty, longer than 64 KiB or no valid Unicode; a schema is no JSON, or
            has a keyword that cannot be enforced.
    """

    kind: GrammarKind
    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise InvalidInputError(f"a {self.kind} must be text, got {type(self.text).__name__}")
        try:
            size = len(self.text.encode("utf-8"))
        except UnicodeEncodeError as exc:
            raise InvalidInputError(f"the {self.kind} is not valid Unicode at character {exc.start}") from exc
        if not self.text.strip():
            raise InvalidInputError(f"the {self.kind} is empty")
        if size > MOST_BYTES:
            raise InvalidInputError(f"the {self.kind} has {size:,} bytes; at most {MOST_BYTES:,} are compiled")

    @classmethod
    def json_schema(cls, schema: str | Mapping[str, Any] | bool) -> Grammar:
        """JSON that is valid against a schema, given as JSON text or as the object itself; order of keys is kept.

        Raises:
            InvalidInputError: it is no schema, or has a keyword that cannot be enforced; the message names it.
        """
        grammar = cls("json_schema", schema if isinstance(schema, str) else _as_json("json_schema", schema))
        if grammar.text.strip() == "true":
            return cls("json_schema", "{}")
        if grammar.text.strip() == "false":
            raise InvalidInputError("the json_schema is false, which no value is valid against")
        try:
            parsed = parse_object(grammar.text.encode())
        except ValueError as exc:
            raise InvalidInputError(f"the json_schema is no JSON object: {exc}") from exc
        check_keywords(parsed)
        return grammar

    @classmethod
    def any_json(cls) -> Grammar:
        """Any JSON object or array."""
        return cls("json_schema", _ANY_JSON)

    @classmethod
    def json_object(cls) -> Grammar:
        """Any JSON object."""
        return cls("json_schema", _JSON_OBJECT)

    @classmethod
    def regex(cls, pattern: str) -> Grammar:
        """Texts that a regular expression matches as a whole; without lookaround and back references."""
        return cls("regex", pattern)

    @classmethod
    def choice(cls, texts: Sequence[str]) -> Grammar:
        """One of some texts.

        Raises:
            InvalidInputError: there is none, or one is empty or no text.
        """
        if (
            not isinstance(texts, list | tuple)
            or not texts
            or not all(isinstance(text, str) and text for text in texts)
        ):
            raise InvalidInputError("a choice needs a list of texts, none of them empty")
        return cls("choice", _as_json("choice", list(texts)))

    @classmethod
    def of_text(cls, text: str) -> Grammar:
        """A grammar in llama.cpp's GBNF, where a rule is written with `::=`, or in llguidance's variant of Lark.

        Raises:
            InvalidInputError: it is neither.
        """
        kind: GrammarKind = "gbnf" if isinstance(text, str) and _GBNF_RULE.search(text) else "lark"
        grammar = cls(kind, text)
        # llguidance would take JSON as a grammar of its own format, with options that relax schemas.
        if kind == "lark" and (text.lstrip().startswith("{") or not _LARK_RULE.search(text)):
            raise InvalidInputError("the grammar has no rule: it must be Lark (start: …) or GBNF (root ::= …)")
        return grammar

    @classmethod
    def python_expression(cls) -> Grammar:
        """One Python expression on one line, with its line end. Not all of Python's syntax; see docs/constraints.md."""
        return cls("lark", PYTHON_EXPRESSION)

    @classmethod
    def single_line(cls) -> Grammar:
        """One line of any text, with its line end."""
        return cls("regex", _LINE)


def _as_json(kind: str, value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as exc:
        raise InvalidInputError(f"the {kind} cannot be written as JSON: {exc}") from exc
