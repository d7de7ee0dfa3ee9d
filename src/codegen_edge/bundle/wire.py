"""The wire format of protocol buffers, as far as a graph is looked at before a library reads it.

Source: https://protobuf.dev/programming-guides/encoding. Nothing is copied and nothing is made but numbers: a field is
a number with the place of its content.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

# Fields of a message that hold text (None) or messages with text.
Texts = Mapping[int, "Texts | None"]

_MOST_FIELDS = 200_000  # CodeGen's largest graph has some twenty thousand; bounds the time to about a second
_WORD = 1 << 64


class WireError(ValueError):
    """The bytes are no message of protocol buffers."""


class Wire:
    """A message's bytes, and how many fields of it may still be read.

    Args:
        content: the whole message.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self._left = _MOST_FIELDS

    def fields(self, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        """The fields of the message in `content[start:stop]`: number, wire type, and two numbers.

        Of a varint the two are its value and 0; of all others they are where their bytes start and stop.

        Raises:
            WireError: the bytes are no message, or have more fields than any graph of ours.
        """
        content, place = self.content, start
        while place < stop:
            self._left -= 1
            if self._left < 0:
                raise WireError(f"it has more than {_MOST_FIELDS} fields")
            key = content[place]
            place += 1
            if key >= 0x80:
                key, place = self.varint(place - 1, stop)
            number, kind = key >> 3, key & 7
            if number == 0:
                raise WireError("a field has number 0")
            if kind == VARINT:
                value, place = self.varint(place, stop)
                yield number, kind, value, 0
                continue
            if kind == BYTES:
                length, place = self.varint(place, stop)
            elif kind in (FIXED32, FIXED64):
                length = 4 if kind == FIXED32 else 8
            else:
                raise WireError(f"a field has wire type {kind}")
            if length > stop - place:
                raise WireError("a field goes beyond its message")
            yield number, kind, place, place + length
            place += length

    def varint(self, place: int, stop: int) -> tuple[int, int]:
        """An unsigned number of up to 64 bits, and the place behind it."""
        value = shift = 0
        while place < stop and shift < 70:
            byte = self.content[place]
            place += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value % _WORD, place
            shift += 7
        raise WireError("a number has no end")

    def varints(self, start: int, stop: int) -> Iterator[int]:
        """Packed numbers."""
        while start < stop:
            value, start = self.varint(start, stop)
            yield value

    def text(self, start: int, stop: int) -> str:
        """A string; raise WireError where it is not UTF-8."""
        try:
            return self.content[start:stop].decode("utf-8")
        except UnicodeDecodeError as exc:
            raise WireError("a name is not UTF-8") from exc

    def check_texts(self, start: int, stop: int, texts: Texts) -> None:
        """Raise WireError where a text of a message is none: libraries hand it to Python unchecked."""
        for number, kind, first, last in self.fields(start, stop):
            if kind != BYTES or number not in texts:
                continue
            inner = texts[number]
            if inner is None:
                self.text(first, last)
            else:
                self.check_texts(first, last, inner)


def signed(value: int) -> int:
    """The int64 that an unsigned varint stands for."""
    return value - _WORD if value >= _WORD // 2 else value
