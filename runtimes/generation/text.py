"""From token events to text: whole characters only, and never a part of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from codegen_edge.tokenizer import Tokenizer


class TextAssembler:
    """Turns one row's tokens into pieces of text whose join is the row's final text.

    Bytes are held back until they make a character, and text until it cannot become a stop string.

    Args:
        tokenizer: gives the bytes of each token.
        stop: texts to cut before; `is_stopped` tells that one was met.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self.is_stopped = False

    def add(self, token_id: int) -> str:
        """The text that became certain with this token; often empty."""
        return self._release(self._decoder.decode(self._tokenizer.token_bytes(token_id)), is_last=False)

    def finish(self) -> str:
        """The text that was still held back; the row gets no further token."""
        return self._release(self._decoder.decode(b"", final=True), is_last=True)

    def _release(self, text: str, *, is_last: bool) -> str:
        if self.is_stopped:
            return ""
        self._held += text
        found = [index for index in map(self._held.find, self._stop) if index >= 0]
        if found:
            self.is_stopped = True
            released, self._held = self._held[: min(found)], ""
            return released
        keep = 0 if is_last else self._possible_stop_length()
        split = len(self._held) - keep
        released, self._held = self._held[:split], self._held[split:]
        return released

    def _possible_stop_length(self) -> int:
        """Length of the longest end of the held text that is a beginning of a stop string."""
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stop):
                return length
        return 0
