"""Server-sent events of a streamed completion, and what they add up to."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from codegen_edge.server.load.connection import AnswerError, error_message

_DONE = "[DONE]"  # OpenAI's last event


class EventDecoder:
    """Splits a body into the data of its events (HTML standard, 9.2). Comments such as `: ping` give none."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []

    def feed(self, body: bytes) -> list[str]:
        """The events that these bytes complete; lines end in LF or CRLF.

        Args:
            body: the next bytes of the body, cut anywhere.

        Returns:
            The data of each event.
        """
        *lines, self._rest = (self._rest + body).split(b"\n")
        events = []
        for line in lines:
            name, _, value = line.removesuffix(b"\r").decode(errors="replace").partition(":")
            if name == "data":
                self._data.append(value.removeprefix(" "))
            elif not name and not value and self._data:
                events.append("\n".join(self._data))
                self._data = []
        return events


@dataclass(slots=True)
class StreamedAnswer:
    """What has arrived of an answer so far; moments are seconds of `time.perf_counter`.

    Attributes:
        text_s: when each chunk that holds text arrived.
        usage_tokens: generated tokens by the server's own count, where it sent one.
        has_finish_reason: whether a chunk gave the reason of the end.
        done_s: when the answer was whole; None before.
    """

    text_s: list[float] = field(default_factory=list)
    usage_tokens: int | None = None
    has_finish_reason: bool = False
    done_s: float | None = None

    def read(self, event: str, at_s: float) -> None:
        """Take in the data of one event.

        Raises:
            AnswerError: it reports an error, or it is no chunk of a completion.
        """
        if event.strip() == _DONE:
            self.done_s = at_s
            return
        try:
            self._read_chunk(json.loads(event), event, at_s)
        except (ValueError, TypeError, AttributeError) as exc:
            raise AnswerError("protocol", f"no chunk of a completion: {event}") from exc

    def _read_chunk(self, chunk: Any, event: str, at_s: float) -> None:
        if chunk.get("error") or chunk.get("object") == "error":
            raise AnswerError("stream error", error_message(event))
        choices = chunk.get("choices") or []
        if any(choice.get("text") for choice in choices):
            self.text_s.append(at_s)
        if any(choice.get("finish_reason") for choice in choices):
            self.has_finish_reason = True
        tokens = (chunk.get("usage") or {}).get("completion_tokens")
        if isinstance(tokens, int):
            self.usage_tokens = tokens

    def end(self, at_s: float) -> None:
        """The body has ended.

        Raises:
            AnswerError: the answer was cut.
        """
        if self.done_s is None:
            if not self.has_finish_reason:
                raise AnswerError("protocol", "the answer ended without [DONE] and without a finish_reason")
            self.done_s = at_s
