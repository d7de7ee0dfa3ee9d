"""The keywords of a JSON schema: those that cannot be enforced are refused before anything is compiled.

llguidance refuses the keywords of the standard that it lacks, and ignores those of nobody, such as a keyword with a
typing error. Here both are refused, so that a text that ends is valid against all that the schema says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from codegen_edge.errors import InvalidInputError

_SCHEMA = frozenset({"items", "additionalItems", "additionalProperties"})
_SCHEMAS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems", "items"})
_NAMED_SCHEMAS = frozenset({"properties", "patternProperties", "$defs", "definitions"})
_ANY_VALUES = frozenset({"$ref", "const", "enum", "type"})
_ARRAYS = frozenset({"minItems", "maxItems"})
_OBJECTS = frozenset({"required", "minProperties", "maxProperties"})
_STRINGS = frozenset({"minLength", "maxLength", "pattern", "format"})
_NUMBERS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
_NAMES = frozenset({"$anchor", "$schema", "$id", "id", "$comment", "title", "description", "examples", "default"})
_REMARKS = frozenset({"readOnly", "writeOnly", "deprecated", "contentMediaType", "contentEncoding", "discriminator"})
_KNOWN = frozenset().union(
    *(_SCHEMA, _SCHEMAS, _NAMED_SCHEMAS, _ANY_VALUES, _ARRAYS, _OBJECTS, _STRINGS, _NUMBERS, _NAMES, _REMARKS)
)


def check_keywords(schema: Mapping[str, Any]) -> None:
    """Raise InvalidInputError for a keyword that cannot be enforced; the message names it.

    Args:
        schema: parsed; what its keywords hold is checked where it is compiled.
    """
    waiting: list[Any] = [schema]
    while waiting:
        each = waiting.pop()
        if not isinstance(each, Mapping):
            continue
        for name in each:
            if name not in _KNOWN and not (name.startswith("x-") and name != "x-guidance"):
                raise InvalidInputError(f"the json_schema has the keyword {name[:80]!r}, which cannot be enforced")
        _check_number_of_properties(each)
        waiting += _inner(each)


def _check_number_of_properties(schema: Mapping[str, Any]) -> None:
    least, required = schema.get("minProperties"), schema.get("required")
    num_required = len(required) if isinstance(required, list) else 0
    if isinstance(least, int | float) and least > max(1, num_required):
        # Names that the schema does not list may come twice, and count once.
        raise InvalidInputError(
            f"the json_schema has minProperties {least} and {num_required} required properties: more than these "
            "(or one) cannot be enforced"
        )


def _inner(schema: Mapping[str, Any]) -> Iterator[Any]:
    for name, value in schema.items():
        if name in _NAMED_SCHEMAS and isinstance(value, Mapping):
            yield from value.values()
        elif name in _SCHEMAS and isinstance(value, list):
            yield from value
        elif name in _SCHEMA:
            yield value
