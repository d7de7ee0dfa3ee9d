"""One HTTP/1.1 exchange with a server: h11 over asyncio's streams, and the moment at which each part arrived."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from codegen_edge.errors import InvalidInputError, RuntimeUnavailableError

try:
    import h11
except ImportError as exc:
    raise RuntimeUnavailableError(f"the load driver needs h11 ({exc}): pip install h11") from exc

Headers = Sequence[tuple[str, str]]

_READ_BYTES = 64 * 1024  # asyncio's own buffer size
_MOST_BODY_BYTES = 1024 * 1024  # of an answer that is read as a whole: a refusal, a list of models
_MOST_MESSAGE = 200  # characters of a server's message that a result repeats


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a server listens.

    Attributes:
        host, port: of the socket.
        is_tls: whether the URL says https.
        prefix: what stands before `/completions` in the path.
    """

    host: str
    port: int
    is_tls: bool
    prefix: str

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """Read `http[s]://host[:port][/prefix]`; without a path the prefix is `/v1`.

        Raises:
            InvalidInputError: it is something else.
        """
        wanted = f"url must be http[s]://host[:port][/prefix], got {url!r}"
        try:
            parts = urlsplit(url)
            port = parts.port
            host = (parts.hostname or "").encode("idna").decode()
        except ValueError as exc:
            raise InvalidInputError(f"{wanted} ({exc})") from exc
        is_plain = parts.path.isascii() and parts.path.isprintable() and " " not in url
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or not is_plain:
            raise InvalidInputError(wanted)
        if parts.username is not None:
            raise InvalidInputError("url must hold no user and no password; give the server's key as api_key")
        is_tls = parts.scheme == "https"
        return cls(
            host=host,
            port=port if port is not None else (443 if is_tls else 80),
            is_tls=is_tls,
            prefix=parts.path.rstrip("/") or "/v1",
        )

    @property
    def authority(self) -> str:
        """Host and port, as the Host header has them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{'https' if self.is_tls else 'http'}://{self.authority}{self.prefix}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a request was not completed.

    Attributes:
        kind: the HTTP status, or "timeout", "connection", "protocol" (the answer cannot be understood) or
            "stream error" (an error that the server reported in the middle of its answer).
        message: the server's or the system's, shortened to a line.
        retry_after_s: how long the server asks to wait before the request is sent again.
    """

    kind: str
    message: str
    retry_after_s: float | None = None


class AnswerError(Exception):
    """An answer that ends a request without completing it. The client turns it into its failure."""

    def __init__(self, kind: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.failure = Failure(kind=kind, message=shortened(message), retry_after_s=retry_after_s)


class Connection:
    """An open connection that carries one request and its answer.

    Attributes:
        read_s: when the latest bytes arrived, by `time.perf_counter`.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.read_s = time.perf_counter()
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT)

    async def send(self, method: str, target: str, headers: Headers, body: bytes = b"") -> None:
        """Send a whole request."""
        headers = [*headers, ("Content-Length", str(len(body)))]
        data = self._http.send(h11.Request(method=method, target=target, headers=list(headers))) or b""
        data += self._http.send(h11.Data(data=body)) or b""
        data += self._http.send(h11.EndOfMessage()) or b""
        self._writer.write(data)
        await self._writer.drain()

    async def expect_ok(self) -> None:
        """Read the answer's head.

        Raises:
            AnswerError: its status is not 200; holds the message that the body gives.
        """
        event = await self._next_event()
        if not isinstance(event, h11.Response):
            raise AnswerError("protocol", "the server closed the connection before it answered")
        if event.status_code != 200:
            body = await self.read_all()
            raise AnswerError(str(event.status_code), error_message(body), _retry_after_s(dict(event.headers)))

    async def read_body(self) -> bytes | None:
        """The next part of the answer's body; None at its end."""
        event = await self._next_event()
        return bytes(event.data) if isinstance(event, h11.Data) else None

    async def read_all(self) -> bytes:
        """The rest of the answer's body, cut where it is too long for anything that is read as a whole."""
        body = b""
        while len(body) < _MOST_BODY_BYTES and (part := await self.read_body()) is not None:
            body += part
        return body

    async def close(self) -> None:
        """Close it at once: everything was sent, and what was not read is not wanted."""
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _next_event(self) -> h11.Event:
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as exc:
                raise AnswerError("protocol", str(exc)) from exc
            if not isinstance(event, h11.Event):  # NEED_DATA; PAUSED comes only after the answer's end
                data = await self._reader.read(_READ_BYTES)
                self.read_s = time.perf_counter()
                self._http.receive_data(data)
            elif not isinstance(event, h11.InformationalResponse):
                return event


def error_message(body: bytes | str) -> str:
    """The message in an error of OpenAI's form or one like it, else the body itself."""
    text = body if isinstance(body, str) else body.decode(errors="replace")
    try:
        found = json.loads(text)
    except ValueError:
        return text
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and found.get(key):
            found = found[key]
    return found if isinstance(found, str) else text


def shortened(message: str) -> str:
    """A message of another program as one line that is not too long."""
    line = " ".join(message.split())
    return line if len(line) <= _MOST_MESSAGE else f"{line[:_MOST_MESSAGE]}…"


def _retry_after_s(headers: dict[bytes, bytes]) -> float | None:
    """What Retry-After says in seconds or as a date (RFC 9110, 10.2.3), or retry-after-ms, which some servers add."""
    with contextlib.suppress(ValueError):
        for name, unit_s in ((b"retry-after-ms", 1e-3), (b"retry-after", 1.0)):
            if name in headers and math.isfinite(seconds := float(headers[name]) * unit_s):
                return max(seconds, 0.0)
    with contextlib.suppress(ValueError, KeyError):
        date = email.utils.parsedate_to_datetime(headers[b"retry-after"].decode("latin-1"))
        return max(date.timestamp() - time.time(), 0.0)
    return None
