"""Random changes of bytes, of JSON, of a safetensors file: each a function of what is there and a generator."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

Change = Callable[[bytes, random.Random], bytes]

STRANGE_NUMBERS = (0, -1, 1, 3, 2**31, 2**32 - 1, 2**63 - 1, 2**64, -(2**63), 10**40, 0.5, 1e308)
STRANGE_VALUES: tuple[Any, ...] = (
    *(None, True, False, *STRANGE_NUMBERS, float("nan"), float("inf"), -float("inf")),
    *("", " ", "0", "x" * 5000, "\0", "line\nline", "\ud800", "\u202e", "../../up", "/dev/zero", "9" * 500),
    *([], {}, [[[]]], [None, None], {"": {}}, list(range(50))),
)
_STRANGE_KEYS = ("", "__class__", "__proto__", "\ud83d", "a\nb", "files", "n_layer")
_MOST_PLACES = 4000  # of a JSON value; a vocabulary has more
_LENGTH_BYTES = 8  # of a safetensors header: u64, little-endian


def bytes_changed(content: bytes, rng: random.Random) -> bytes:
    """A few bits, bytes or runs of bytes are flipped, set, dropped, doubled, moved or cut off."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        if not changed:
            return bytes(rng.randbytes(rng.randrange(1, 64)))
        start = rng.randrange(len(changed))
        size = min(rng.choice((1, 2, 4, 8, 16, 256, 4096)), len(changed) - start)
        run = slice(start, start + size)
        match rng.choice(("flip", "flip", "set", "drop", "double", "insert", "cut", "number", "swap")):
            case "flip":
                changed[start] ^= 1 << rng.randrange(8)
            case "set":
                changed[run] = bytes([rng.choice((0, 0x20, 0x7F, 0x80, 0xFF))]) * size
            case "drop":
                del changed[run]
            case "double":
                changed[start:start] = changed[run] * rng.choice((1, 2, 50))
            case "insert":
                changed[start:start] = rng.randbytes(size)
            case "cut":
                del changed[start if rng.random() < 0.5 else len(changed) - 1 :]
            case "number":
                value = rng.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1))
                changed[start : start + 8] = value.to_bytes(8, rng.choice(("little", "big")))
            case "swap":
                other = rng.randrange(len(changed))
                changed[start], changed[other] = changed[other], changed[start]
    return bytes(changed)


def bits_flipped(content: bytes, rng: random.Random) -> bytes:
    """One to four bits; the length stays."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def value_changed(value: Any, rng: random.Random) -> Any:
    """A JSON value with one to three of its parts replaced, removed, renamed, repeated or wrapped. Changed in place."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = _places(value)
        if not places:
            return _strange(rng)
        holder, key = rng.choice(places[:40]) if rng.random() < 0.5 else rng.choice(places)
        _change_place(holder, key, rng)
    return value


def _strange(rng: random.Random) -> Any:
    """A copy: what is put in may be changed again."""
    return copy.deepcopy(rng.choice(STRANGE_VALUES))


def _change_place(holder: Any, key: Any, rng: random.Random) -> None:
    old = holder[key]
    match rng.choice(("replace", "replace", "remove", "rename", "number", "text", "wrap", "repeat", "add")):
        case "remove":
            del holder[key]
        case "rename" if isinstance(holder, dict):
            holder[rng.choice((*_STRANGE_KEYS, f"{key}_"))] = holder.pop(key)
        case "number" if isinstance(old, int) and not isinstance(old, bool):
            holder[key] = rng.choice((old + 1, old - 1, -old, old * 2, old * 1000, float(old), str(old)))
        case "text" if isinstance(old, str):
            place = rng.randrange(len(old) + 1)
            holder[key] = old[:place] + rng.choice(("", "\0", "é", "\ud800", "\n", "x" * 300)) + old[place + 1 :]
        case "wrap":
            holder[key] = rng.choice(([old], {"x": old}, [old, old]))
        case "repeat" if isinstance(holder, list):
            holder[key:key] = [old] * rng.choice((1, 2, 100))
        case "add" if isinstance(holder, dict):
            holder[rng.choice(_STRANGE_KEYS)] = _strange(rng)
        case _:
            holder[key] = _strange(rng)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Holder and key of the parts of a value, the outer ones first."""
    places: list[tuple[Any, Any]] = []
    holders = [value]
    for holder in holders:
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            places.append((holder, key))
            holders.append(holder[key])
        if len(places) > _MOST_PLACES:
            break
    return places


def json_changed(content: bytes, rng: random.Random) -> bytes:
    """Its value is changed, or its text: a key comes twice, brackets nest, a comment, other white space."""
    roll = rng.random()
    if roll < 0.7:
        return json.dumps(value_changed(json.loads(content), rng)).encode()
    if roll < 0.76:
        first = content.find(b"{") + 1
        key = rng.choice((b"n_layer", b"format_version", b"version", b"files", b"model"))
        return content[:first] + b'"' + key + b'": 1, "' + key + b'": 2, ' + content[first:]
    if roll < 0.8:
        depth = rng.choice((50, 2000, 200_000))
        return b"[" * depth + (b"]" * depth if rng.random() < 0.5 else b"")
    if roll < 0.84:
        return rng.choice((b"\xef\xbb\xbf" + content, b"// x\n" + content, content * 2, b"", b"null", b"{}", b"[]"))
    return bytes_changed(content, rng)


def safetensors_header_changed(content: bytes, rng: random.Random) -> bytes:
    """The length of the header, its JSON, or its bytes; the tensors stay."""
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    header, tensors = content[_LENGTH_BYTES : _LENGTH_BYTES + length], content[_LENGTH_BYTES + length :]
    if rng.random() < 0.15:
        other = rng.choice((0, 1, length - 1, length + 1, length + 10**6, 2**31, 2**63, 2**64 - 1))
        return other.to_bytes(_LENGTH_BYTES, "little") + header + tensors
    header = json_changed(header, rng)
    return len(header).to_bytes(_LENGTH_BYTES, "little") + header + tensors


def safetensors_body_changed(content: bytes, rng: random.Random) -> bytes:
    """Bytes of the tensors; sometimes their number as well."""
    start = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    change = bits_flipped if rng.random() < 0.6 else bytes_changed
    return content[:start] + change(content[start:], rng)
