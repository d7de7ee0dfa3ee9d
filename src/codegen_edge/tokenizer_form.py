"""The one form of tokenizer that is accepted: CodeGen's, GPT-2's byte-level BPE with added runs of spaces and tabs.

A tokenizer.json can hold far more: normalizers that grow a text without end, splits by any regular expression, merges
that are left out at random, ids so large that the library fills all memory. None of these is CodeGen's, and the library
checks none of them. So the file is checked before the library sees it.

What the form guarantees to others: every text has ids, they are the same every time, their texts join to the text
again, and no token stands for more characters than the longest one has symbols.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from codegen_edge.strict_json import parse_object

MOST_BYTES = 16 * 1024 * 1024  # of a file; CodeGen's tokenizer.json has 2.1 MB
_MOST_IDS = 2**18  # CodeGen has 51,200
_MOST_ADDED = 1024  # CodeGen has 39
_LONGEST_TOKEN = 1024  # symbols; CodeGen's longest has 128
_SHOWN = 60  # characters of a value in an error

_BYTE_LEVEL: dict[str, set[Any]] = {
    "type": {"ByteLevel"},
    "add_prefix_space": {True, False},
    "trim_offsets": {True, False},
}
# What each part may say. None stands for what is left out as well.
_PARTS: dict[str, dict[str, set[Any]]] = {
    # A space put before the text is no part of the text; without the regular expression a text would be one word.
    "pre_tokenizer": _BYTE_LEVEL | {"add_prefix_space": {False}, "use_regex": {True, None}},
    # Neither of these uses what it says here.
    "post_processor": _BYTE_LEVEL | {"use_regex": {True, False, None}},
    "decoder": _BYTE_LEVEL | {"use_regex": {True, False, None}},
}
_MODEL: dict[str, set[Any]] = {
    "type": {"BPE"},
    "dropout": {None, 0},
    "continuing_subword_prefix": {None, ""},
    "end_of_word_suffix": {None, ""},
    "fuse_unk": {True, False, None},
    "byte_fallback": {False, None},
    "ignore_merges": {True, False, None},
}
_CONTENT = ("vocab", "merges", "unk_token")
_TOP = {"version", "truncation", "padding", "added_tokens", "normalizer", "model", *_PARTS}
_ADDED_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False}


def read_bounded(path: Path) -> bytes:
    """The content of a regular file of at most MOST_BYTES; a pipe or a device would never end.

    Raises:
        ValueError: it is larger, or no regular file.
        OSError: it cannot be read.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no regular file")
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES:,} bytes; CodeGen's has 2,114,896")
    return content


def check_form(content: bytes) -> dict[str, int]:
    """Check that a tokenizer.json has CodeGen's form.

    Args:
        content: of the file, from `read_bounded`.

    Returns:
        The id of every token, of the added ones too. Of an added token it is what the file says; the library may give
        it another one, which `check_ids` finds.

    Raises:
        ValueError: it has another form; says which part, and what was expected.
    """
    fields = parse_object(content)
    model = fields.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE":
        raise ValueError("it is no byte-level BPE, as every CodeGen's is")
    _require_known("it", fields, _TOP)
    if fields.get("normalizer") is not None:
        raise ValueError(f"it has a normalizer, {_shown(fields['normalizer'])}; CodeGen's has none")
    for name, allowed in _PARTS.items():
        part = fields.get(name)
        if part is None and name == "post_processor":
            continue
        if not isinstance(part, dict) or part.get("type") != "ByteLevel":
            raise ValueError(f"it is no byte-level BPE: its {name} is {_shown(part)}; CodeGen's is ByteLevel")
        _check_part(name, part, allowed)
    _check_part("model", {key: value for key, value in model.items() if key not in _CONTENT}, _MODEL)
    return _check_model(model, fields.get("added_tokens"))


def check_vocabulary(vocabulary: Mapping[str, Any]) -> None:
    """Check tokens and their ids; raise ValueError where an id is none, too large or given twice."""
    if len(vocabulary) > _MOST_IDS:
        raise ValueError(f"it has {len(vocabulary):,} tokens; at most {_MOST_IDS:,} are read")
    for token, token_id in () if _is_sound(vocabulary) else vocabulary.items():
        if type(token_id) is not int or not 0 <= token_id < _MOST_IDS:
            raise ValueError(f"the id of {_shown(token)} must be in 0…{_MOST_IDS - 1}, got {_shown(token_id)}")
        if not 0 < len(token) <= _LONGEST_TOKEN:
            raise ValueError(f"the token of id {token_id} has {len(token)} characters, not 1 to {_LONGEST_TOKEN}")
    if len(set(vocabulary.values())) < len(vocabulary):
        raise ValueError("two of its tokens have the same id")


def _is_sound(vocabulary: Mapping[str, Any]) -> bool:
    """Whether no token and no id by itself is at fault; a loop over all of them would slow every start."""
    ids = vocabulary.values()
    if not vocabulary or {*map(type, ids)} != {int}:
        return not vocabulary
    shortest, longest = min(map(len, vocabulary)), max(map(len, vocabulary))
    return min(ids) >= 0 and max(ids) < _MOST_IDS and shortest > 0 and longest <= _LONGEST_TOKEN


def check_ids(expected: Mapping[str, int], added: Mapping[str, int], size: int) -> None:
    """Compare what the library made of a file with what the file says.

    Args:
        expected: from `check_form`.
        added: the library's ids of added tokens; those of the vocabulary it takes as they are.
        size: the library's number of tokens.

    Raises:
        ValueError: an added token has another id: it did not follow the vocabulary.
    """
    token = next((token for token, token_id in added.items() if expected.get(token) != token_id), None)
    if token is not None:
        raise ValueError(f"the id of {_shown(token)}, {expected.get(token)}, does not follow the vocabulary")
    if size != len(expected):
        raise ValueError(f"{len(expected):,} tokens were read as {size:,}")


@cache
def byte_of_symbol() -> dict[str, int]:
    """Byte-level BPE's alphabet: printable bytes stand for themselves, the rest follow from U+0100 (GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(0x100 + index): byte for index, byte in enumerate(others)})
    return table


def _check_model(model: Mapping[str, Any], added: object) -> dict[str, int]:
    vocabulary, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocabulary, dict) or not isinstance(merges, list):
        raise ValueError("its model has no vocabulary or no merges")
    missing = next((symbol for symbol in byte_of_symbol() if symbol not in vocabulary), None)
    if missing is not None:
        raise ValueError(f"its vocabulary lacks the byte {byte_of_symbol()[missing]}: texts would lose it")
    unknown = model.get("unk_token")
    if unknown not in (None, "") and (not isinstance(unknown, str) or unknown not in vocabulary):
        raise ValueError(f"its unk_token, {_shown(unknown)}, is no token")
    if len(merges) > _MOST_IDS:
        raise ValueError(f"it has {len(merges):,} merges; at most {_MOST_IDS:,} are read")
    for merge in merges:
        if not isinstance(merge, str | list) or len(merge) > 2 * _LONGEST_TOKEN + 1:
            raise ValueError(f"a merge is {_shown(merge)}, no pair of tokens")
    ids: dict[str, int] = dict(vocabulary)
    for content, token_id in _added_tokens(added):
        if ids.setdefault(content, token_id) != token_id:
            raise ValueError(f"the added token {_shown(content)} has two ids, {ids[content]} and {token_id}")
    check_vocabulary(ids)
    if max(ids.values()) + 1 != len(ids):
        raise ValueError(f"its ids are not dense: it has {len(ids):,} tokens, and an id {max(ids.values()):,}")
    return ids


def _added_tokens(added: object) -> Iterable[tuple[str, int]]:
    if added is None:
        return
    if not isinstance(added, list) or len(added) > _MOST_ADDED:
        raise ValueError(f"its added tokens must be a list of at most {_MOST_ADDED}")
    for token in added:
        if not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise ValueError(f"an added token is {_shown(token)}")
        _require_known("an added token", token, {"id", "content", "normalized", "special", *_ADDED_FLAGS})
        for name, value in _ADDED_FLAGS.items():
            if token.get(name, value) is not value:
                raise ValueError(f"the added token {_shown(token['content'])} has {name}; CodeGen's have not")
        yield token["content"], token.get("id")  # type: ignore[misc]  # checked with the vocabulary's


def _check_part(name: str, part: Mapping[str, Any], allowed: Mapping[str, set[Any]]) -> None:
    _require_known(f"its {name}", part, set(allowed))
    for key, values in allowed.items():
        value = part.get(key)
        if key == "dropout" and value == 0:
            continue
        # Not `in`: 1 equals True, and a list has no hash.
        if key in part and not any(value is each or (type(value) is str and value == each) for each in values):
            raise ValueError(f"its {name} has {key} {_shown(value)}; CodeGen's has {_choices(values)}")


def _choices(values: set[Any]) -> str:
    return " or ".join(sorted(map(repr, values)))


def _require_known(what: str, fields: Mapping[str, Any], known: set[str]) -> None:
    unknown = next((key for key in fields if key not in known), None)
    if unknown is not None:
        raise ValueError(f"{what} has {_shown(unknown)}, which no CodeGen tokenizer has")


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
