"""A saved session: tokens, and the keys and values that were computed of them, under one checksum.

    magic line · sha256 of all that follows · length of the head, 8 bytes, little-endian · head, JSON · tensors

Nothing is compressed and the head says the size of every tensor, so that a file is refused before anything is allocated
for it: its size must be what the head says, and no larger than the model's own cache. The checksum finds damage. It is
no signature: whoever can write the file can write another one.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codegen_edge.bundle.held import open_regular
from codegen_edge.bundle.model_config import ModelConfig
from codegen_edge.bundle.storage import replace_file
from codegen_edge.errors import BundleError, IntegrityError

_MAGIC = b"codegen-edge session 2\n"
_ZIP = b"PK\x03\x04"  # what format 1 began with
_DIGEST_BYTES = hashlib.sha256().digest_size
_START = len(_MAGIC) + _DIGEST_BYTES + 8
_MOST_HEAD_BYTES = 64 * 1024 * 1024  # ten million tokens
_WIDEST_VALUE_BYTES = 8  # of a cache's element


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedSession:
    """What a session's file holds.

    Attributes:
        model: fingerprint of the model.
        token_ids: of the text.
        held: the tokens whose keys and values the tensors hold.
        tensors: as `KVCache.read_row` gives them; empty where nothing was read yet.
    """

    model: str
    token_ids: list[int]
    held: list[int]
    tensors: Mapping[str, NDArray[Any]]


def write_session(path: Path, session: SavedSession) -> None:
    """Write a session in one step; raise StorageError where that cannot be."""
    head = {
        "model": session.model,
        "token_ids": session.token_ids,
        "held": session.held,
        "tensors": [[name, tensor.dtype.str, tensor.shape] for name, tensor in session.tensors.items()],
    }
    encoded = json.dumps(head).encode()
    parts = [len(encoded).to_bytes(8, "little"), encoded]
    parts += [np.ascontiguousarray(tensor).tobytes() for tensor in session.tensors.values()]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    replace_file(path, b"".join((_MAGIC, digest.digest(), *parts)))


def read_session(path: Path, config: ModelConfig, fingerprint: str) -> SavedSession:
    """Read what `write_session` wrote.

    Memory: of the file, which is no larger than the model's own cache and the head.

    Args:
        path: the file.
        config: of the model that goes on.
        fingerprint: of that model.

    Raises:
        BundleError: the file is no session, was altered, or is larger than any of this model.
        IntegrityError: it is another model's.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            start = file.read(_START)
            if start.startswith(_ZIP):
                raise BundleError(
                    f"{path} is no session that can be read: an earlier codegen-edge wrote it in format 1, which has "
                    "no checksum; begin a new session with its text"
                )
            head_bytes = int.from_bytes(start[-8:], "little")
            if not start.startswith(_MAGIC) or len(start) < _START or head_bytes > _MOST_HEAD_BYTES:
                raise ValueError("it does not begin like one")
            if size_bytes > _START + head_bytes + _most_tensor_bytes(config):
                raise ValueError(f"it has {size_bytes} bytes, more than a cache of this model and its text")
            content = file.read(size_bytes - _START)
    except OSError as exc:
        raise BundleError(f"{path} is no session that can be read: {exc.strerror or exc}") from exc
    except ValueError as exc:
        raise BundleError(f"{path} is no session that can be read: {exc}") from exc
    digest = hashlib.sha256(start[-8:])
    digest.update(content)
    if digest.digest() != start[len(_MAGIC) : -8]:
        raise BundleError(f"{path} is no session that can be read: it was cut or altered, its checksum differs")
    try:
        head = json.loads(content[:head_bytes])
        if head["model"] != fingerprint:
            raise IntegrityError(f"{path} was written with another model or precision; its cache means nothing here")
        return _parsed(head, memoryview(content)[head_bytes:], config)
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as exc:
        raise BundleError(f"{path} is no session that can be read ({exc})") from exc


def _most_tensor_bytes(config: ModelConfig) -> int:
    """Of keys and values of a full context, whatever they are stored in."""
    return 2 * config.num_layers * config.hidden_size * config.context_length * _WIDEST_VALUE_BYTES


def _parsed(head: dict[str, Any], content: memoryview, config: ModelConfig) -> SavedSession:
    tensors: dict[str, NDArray[Any]] = {}
    place = 0
    for name, dtype_name, shape in head["tensors"]:
        dtype = np.dtype(str(dtype_name))
        if dtype.kind not in "fiu" or not all(type(dim) is int and dim >= 0 for dim in shape):
            raise ValueError(f"{name} has dtype {dtype_name} and shape {shape}")
        stop = place + math.prod(shape) * dtype.itemsize
        if stop > len(content):
            raise ValueError(f"{name} goes beyond the file")
        tensors[str(name)] = np.frombuffer(content[place:stop], dtype).reshape(shape)
        place = stop
    if place != len(content):
        raise ValueError("there are bytes behind the last tensor")
    return SavedSession(
        model=head["model"],
        token_ids=_ids(head["token_ids"], config.vocab_size),
        held=_ids(head["held"], config.vocab_size),
        tensors=tensors,
    )


def _ids(values: Any, vocab_size: int) -> list[int]:
    if not isinstance(values, list) or not all(type(each) is int and 0 <= each < vocab_size for each in values):
        raise ValueError("its tokens are no ids of this model")
    return values
