"""Random JSON schemas of the subset that is enforced; their texts end, as nothing in them is long."""

from __future__ import annotations

from typing import Any

from numpy.random import Generator

WORDS = ("name", "size", "path", "tags", "a b", "é", "x-1", '"', "line\n")
FORMATS = ("date", "time", "date-time", "uuid", "ipv4", "email")
MOST_DEPTH = 3


def random_schema(random: Generator) -> dict[str, Any]:
    """An object with some properties, now and then with definitions that they refer to."""
    names = [f"d{number}" for number in range(random.integers(0, 3))]
    schema = _object(random, 0, names)
    return schema | ({"$defs": {name: _leaf(random) for name in names}} if names else {})


def _any(random: Generator, depth: int, names: list[str]) -> dict[str, Any]:
    if names and random.random() < 0.15:
        return {"$ref": f"#/$defs/{random.choice(names)}"}
    if depth >= MOST_DEPTH or random.random() < 0.55:
        return _leaf(random)
    kind = random.integers(4)
    if kind == 0:
        return _object(random, depth + 1, names)
    if kind == 1:
        least = int(random.integers(0, 3))
        items = _any(random, depth + 1, names)
        return {"type": "array", "items": items, "minItems": least, "maxItems": least + int(random.integers(0, 3))}
    if kind == 2:
        prefix = [_any(random, depth + 1, names) for _ in range(random.integers(1, 4))]
        return {"type": "array", "prefixItems": prefix, "items": False, "minItems": len(prefix)}
    return {"anyOf": [_any(random, depth + 1, names) for _ in range(random.integers(1, 4))]}


def _object(random: Generator, depth: int, names: list[str]) -> dict[str, Any]:
    keys = [str(key) for key in random.permutation(WORDS)[: random.integers(1, 5)]]
    schema: dict[str, Any] = {"type": "object", "properties": {key: _any(random, depth, names) for key in keys}}
    schema["required"] = [key for key in keys if random.random() < 0.7]
    schema["additionalProperties"] = False
    if random.random() < 0.15:
        schema |= {"patternProperties": {"^k[0-9]$": _leaf(random)}}
    return schema


def _leaf(random: Generator) -> dict[str, Any]:
    low = int(random.integers(-1000, 1000))
    high = low + int(random.integers(0, 5000))
    length = int(random.integers(0, 6))
    choices: list[dict[str, Any]] = [
        {"type": "string", "minLength": length, "maxLength": length + int(random.integers(0, 12))},
        {"type": "string", "pattern": "^[a-z]{1,8}(_[0-9]+)?$", "maxLength": 12},
        {"type": "string", "format": str(random.choice(FORMATS))},
        {"type": "integer", "minimum": low, "maximum": high},
        {"type": "integer", "exclusiveMinimum": low, "exclusiveMaximum": high + 2},
        {"type": "integer", "minimum": 0, "maximum": 999, "multipleOf": int(random.integers(1, 8))},
        {"type": "number", "minimum": low / 4, "maximum": high / 4},
        {"type": ["boolean", "null"]},
        {"enum": [None, True, low, str(random.choice(WORDS)), [low], {"k": high}][: random.integers(1, 7)]},
        {"const": str(random.choice(WORDS))},
        {"oneOf": [{"type": "integer", "minimum": 0, "maximum": 9}, {"type": "string", "maxLength": 3}]},
        {"allOf": [{"type": "integer", "minimum": low}, {"maximum": high}]},
    ]
    return choices[int(random.integers(len(choices)))]
