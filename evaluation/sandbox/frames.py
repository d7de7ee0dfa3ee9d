"""Messages between the sandbox's processes: a length, then JSON. Nothing is ever pickled."""

from __future__ import annotations

import os
import struct
from json import dumps, loads

_LENGTH = struct.Struct("!I")


class FrameError(Exception):
    """What came is no message, or is too long."""


class ChannelClosedError(FrameError):
    """The other end is closed: its process ended, or closed it."""


def send(descriptor: int, message: object) -> None:
    """Write `message` as JSON.

    Raises:
        OSError: the other end is closed.
    """
    payload = dumps(message).encode()
    view = memoryview(_LENGTH.pack(len(payload)) + payload)
    while view:
        view = view[os.write(descriptor, view) :]


def receive(descriptor: int, max_bytes: int) -> dict[str, object]:
    """Read one message; it must be a JSON object of at most `max_bytes`.

    Raises:
        ChannelClosedError: the other end is closed.
        FrameError: it sent something else.
    """
    (length,) = _LENGTH.unpack(_read_exactly(descriptor, _LENGTH.size))
    if length > max_bytes:
        raise FrameError(f"a message of {length:,} bytes, {max_bytes:,} are allowed")
    try:
        message = loads(_read_exactly(descriptor, length))
    except (ValueError, RecursionError) as exc:
        raise FrameError("a message is no JSON") from exc
    if not isinstance(message, dict):
        raise FrameError("a message is no JSON object")
    return message


def _read_exactly(descriptor: int, size: int) -> bytes:
    pieces = bytearray()
    while len(pieces) < size:
        try:
            piece = os.read(descriptor, min(size - len(pieces), 1 << 20))
        except OSError as exc:
            raise ChannelClosedError("the channel is broken") from exc
        if not piece:
            raise ChannelClosedError("the channel was closed")
        pieces += piece
    return bytes(pieces)
