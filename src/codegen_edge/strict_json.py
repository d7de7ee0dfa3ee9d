"""JSON that others wrote, read so that no two readers can see two things in it."""

from __future__ import annotations

import json
from typing import Any


def parse_object(content: bytes) -> dict[str, Any]:
    """The JSON object in `content`; refuses what other parsers take differently.

    Args:
        content: of a size that the caller has bounded.

    Raises:
        ValueError: it is not UTF-8, no JSON or no object; a key is there twice; it holds half of a surrogate pair; it
            is nested too deeply.
    """
    try:
        value = json.loads(content.decode("utf-8"), object_pairs_hook=_unique)
        # Raw UTF-8 holds no surrogates; only an escape can bring one in.
        if b"\\ud" in content or b"\\uD" in content:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as exc:
        raise ValueError("a text in it holds half of a surrogate pair") from exc
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc
    if not isinstance(value, dict):
        raise ValueError(f"it must hold a JSON object, got {type(value).__name__}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:80]!a} is there twice")
            seen.add(key)
    return fields
