"""A client of any OpenAI-compatible completions server that notes when each part of an answer arrives.

Every request opens a connection of its own, so that no request waits for another one inside the client.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import socket
import ssl
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from codegen_edge.errors import BackendError, CodegenEdgeError, InvalidInputError
from codegen_edge.server.load.connection import AnswerError, Connection, Endpoint, Failure, shortened
from codegen_edge.server.load.events import EventDecoder, StreamedAnswer

_LEAST_WAIT_S = 0.05  # before a request is sent again, however short the server's Retry-After is
_DRAIN_S = 1.0  # for the end of the body after [DONE]; closing at once would look like a cancelled request
_RETRIED = ("429", "503")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came of one request; moments are seconds of `time.perf_counter`.

    Attributes:
        sent_s: when the request was begun, before its connection was opened.
        connect_s: how long opening the connection took; None if it was never open.
        text_s: when each chunk that holds text arrived.
        ended_s: when the answer was whole, or the request failed.
        usage_tokens: generated tokens by the server's own count, where it sent one.
        failure: None if the answer is whole.
        retries: how often the request was sent again because the server asked for that.
    """

    sent_s: float
    connect_s: float | None
    text_s: tuple[float, ...]
    ended_s: float
    usage_tokens: int | None
    failure: Failure | None
    retries: int = 0

    @property
    def num_tokens(self) -> int:
        """Generated tokens: the server's count, else the number of chunks that hold text."""
        return len(self.text_s) if self.usage_tokens is None else self.usage_tokens


def completion_body(model: str, prompt: str | Sequence[int], *, max_tokens: int, temperature: float) -> bytes:
    """The JSON body of a streamed completion that asks for the chunk with the usage."""
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return json.dumps(body).encode()


def failure_error(endpoint: Endpoint, failure: Failure) -> CodegenEdgeError:
    """The error for a failure that ends a whole run: InvalidInputError where the user can repair it."""
    if failure.kind == "connection":
        return InvalidInputError(
            f"{endpoint} cannot be reached: {failure.message}. Start a server there, or correct url"
        )
    is_refusal = failure.kind[0] in "34" and failure.kind not in ("408", "429")
    named = f"status {failure.kind}" if failure.kind.isdigit() else failure.kind
    message = f"{endpoint} did not complete a request that the measurement needs: {named}, {failure.message}"
    return InvalidInputError(message) if is_refusal else BackendError(message)


class CompletionClient:
    """Sends completions to one server.

    Args:
        endpoint: the server.
        api_key: sent as a bearer token.
        timeout_s: after which a request is cut, all of its attempts together.
        is_retrying: whether a request refused with 429 or 503 and Retry-After is sent again after that time. Without
            it every refusal is final, as a measurement of a server's limits needs.

    Raises:
        InvalidInputError: an argument is out of range.
    """

    def __init__(
        self, endpoint: Endpoint, *, api_key: str | None = None, timeout_s: float = 120.0, is_retrying: bool = False
    ) -> None:
        if not (math.isfinite(timeout_s) and timeout_s > 0):
            raise InvalidInputError(f"timeout_s must be positive and finite, got {timeout_s}")
        if api_key is not None and not (api_key.isascii() and api_key.isprintable() and " " not in api_key):
            raise InvalidInputError("api_key must be printable ASCII without spaces")
        self.endpoint = endpoint
        self._timeout_s = timeout_s
        self._is_retrying = is_retrying
        self._tls = ssl.create_default_context() if endpoint.is_tls else None
        self._addresses: list[str] = []
        self._headers = [("Host", endpoint.authority), ("User-Agent", "codegen-edge"), ("Connection", "close")]
        if api_key is not None:
            self._headers.append(("Authorization", f"Bearer {api_key}"))

    async def first_model(self) -> str:
        """The id of the first model that the server lists.

        Raises:
            InvalidInputError: no server answers, or it refuses the request.
            BackendError: it fails, or its list cannot be read.
        """
        parts: list[bytes] = []
        failure = await self._within(self._timeout_s, self._list_models(parts))
        if failure is not None:
            raise failure_error(self.endpoint, failure)
        try:
            return str(json.loads(b"".join(parts))["data"][0]["id"])
        except (ValueError, LookupError, TypeError) as exc:
            raise BackendError(f"{self.endpoint}/models lists no model; name one as model") from exc

    async def complete(self, body: bytes) -> Reply:
        """Send a completion and read its answer to the end. What fails is in the reply; nothing is raised."""
        sent_s = time.perf_counter()
        deadline_s = sent_s + self._timeout_s
        retries = 0
        while True:
            attempt = _Attempt()
            failure = await self._within(deadline_s - time.perf_counter(), self._stream(body, attempt))
            answer = attempt.answer
            if answer.done_s is not None:
                failure = None  # after [DONE] nothing is missing
            ended_s = time.perf_counter() if answer.done_s is None else answer.done_s
            wait_s = self._wait_s(failure)
            if wait_s is None or ended_s + wait_s >= deadline_s:
                return Reply(
                    sent_s=sent_s,
                    connect_s=attempt.connect_s,
                    text_s=tuple(answer.text_s),
                    ended_s=ended_s,
                    usage_tokens=answer.usage_tokens,
                    failure=failure,
                    retries=retries,
                )
            retries += 1
            await asyncio.sleep(wait_s)

    def _wait_s(self, failure: Failure | None) -> float | None:
        """How long to wait before the request is sent again; None if it is not."""
        if not self._is_retrying or failure is None or failure.retry_after_s is None or failure.kind not in _RETRIED:
            return None
        return max(failure.retry_after_s, _LEAST_WAIT_S)

    async def _within(self, timeout_s: float, exchange: Coroutine[Any, Any, None]) -> Failure | None:
        """Await an exchange within a time, and give back what went wrong on the way."""
        try:
            async with asyncio.timeout(timeout_s):
                await exchange
        except AnswerError as exc:
            return exc.failure
        except TimeoutError:
            return Failure(kind="timeout", message=f"no end within {self._timeout_s:g} s")
        except ConnectionRefusedError:
            return Failure(kind="connection", message="connection refused")
        except OSError as exc:
            return Failure(kind="connection", message=shortened(exc.strerror or str(exc) or type(exc).__name__))
        return None

    async def _list_models(self, parts: list[bytes]) -> None:
        async with self._connected() as connection:
            await connection.send("GET", f"{self.endpoint.prefix}/models", self._headers)
            await connection.expect_ok()
            parts.append(await connection.read_all())

    async def _stream(self, body: bytes, attempt: _Attempt) -> None:
        headers = [*self._headers, ("Content-Type", "application/json"), ("Accept", "text/event-stream")]
        answer = attempt.answer
        start_s = time.perf_counter()
        async with self._connected() as connection:
            attempt.connect_s = connection.read_s - start_s
            await connection.send("POST", f"{self.endpoint.prefix}/completions", headers, body)
            await connection.expect_ok()
            decoder = EventDecoder()
            while answer.done_s is None:
                data = await connection.read_body()
                for event in decoder.feed(b"\n\n" if data is None else data):  # the end of the body ends an event
                    answer.read(event, connection.read_s)
                if data is None:
                    answer.end(connection.read_s)
                    return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_S):
                    while await connection.read_body() is not None:
                        pass

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        connection = await self._connect()
        try:
            yield connection
        finally:
            await connection.close()

    async def _connect(self) -> Connection:
        """Connect to the first address that accepts. Later requests go to it alone, and no name is looked up again."""
        host, port = self.endpoint.host, self.endpoint.port
        if not self._addresses:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
            self._addresses = [str(each[4][0]) for each in found]
        server_name = None if self._tls is None else host
        *others, last = self._addresses
        for address in others:
            with contextlib.suppress(OSError):
                opened = await asyncio.open_connection(address, port, ssl=self._tls, server_hostname=server_name)
                self._addresses = [address]
                return Connection(*opened)
        opened = await asyncio.open_connection(last, port, ssl=self._tls, server_hostname=server_name)
        self._addresses = [last]
        return Connection(*opened)


class _Attempt:
    """One time that a request is sent."""

    def __init__(self) -> None:
        self.connect_s: float | None = None
        self.answer = StreamedAnswer()
