"""Answers that may take long: server-sent events, and what ends when the client goes away."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from codegen_edge.server.http.errors import ApiError, as_api_error
from codegen_edge.server.http.models import Running

LOG = logging.getLogger("codegen_edge.server")
_PING_SECONDS = 15.0
T = TypeVar("T")

OnDisconnect = Callable[[], None]


class ClientGoneError(Exception):
    """The client has closed its connection, or takes nothing; there is nobody to answer."""


async def unless_disconnected(request: Request, running: Running, work: Awaitable[T], on_gone: OnDisconnect) -> T:
    """Await `work`; a client that goes away cancels the job. Starlette's handlers are not told of it otherwise.

    Raises:
        ClientGoneError: the client went away.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            on_gone()
            raise ClientGoneError
        return await working
    except BaseException:
        running.cancel()
        raise
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream:
    """A response of server-sent events: `data: {json}`, at the end `data: [DONE]`.

    Args:
        running: the job, cancelled when the client goes away or takes nothing.
        chunks: objects to send; an ApiError that they raise is sent as the last one.
        headers: of the answer.
        write_seconds: how long the client may take nothing.
        on_gone: called when it went away.
    """

    def __init__(
        self,
        running: Running,
        chunks: AsyncIterator[Any],
        *,
        headers: Mapping[str, str],
        write_seconds: float,
        on_gone: OnDisconnect,
    ) -> None:
        self._running = running
        self._chunks = chunks
        self._headers = headers
        self._write_seconds = write_seconds
        self._on_gone = on_gone

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As an ASGI application."""
        sending = asyncio.ensure_future(self._send_all(send))
        watching = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({sending, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done() or sending.exception() is not None:
                self._on_gone()
        finally:
            self._running.cancel()
            for task in (sending, watching):
                task.cancel()
            await asyncio.gather(sending, watching, return_exceptions=True)

    async def _send_all(self, send: Send) -> None:
        headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-store",
            "x-accel-buffering": "no",
            **{name.lower(): value for name, value in self._headers.items()},
        }
        encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": encoded})
        try:
            async for chunk in _with_pings(self._chunks):
                await self._send(send, ": ping\n\n" if chunk is None else _event(chunk))
        except ApiError as exc:
            await self._send(send, _event(exc.body))
        # The stream has begun: whatever goes wrong can only be its last event.
        except Exception as exc:
            LOG.error("in a stream", exc_info=exc)
            await self._send(send, _event(as_api_error(exc).body))
        await self._send(send, "data: [DONE]\n\n", is_last=True)

    async def _send(self, send: Send, text: str, *, is_last: bool = False) -> None:
        message = {"type": "http.response.body", "body": text.encode(), "more_body": not is_last}
        await asyncio.wait_for(send(message), self._write_seconds)


def _event(chunk: Any) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def _with_pings(chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The chunks, and None where none came for a while: proxies close connections that are silent."""
    iterator = chunks.__aiter__()
    upcoming = asyncio.ensure_future(anext(iterator))
    try:
        while True:
            done, _ = await asyncio.wait({upcoming}, timeout=_PING_SECONDS)
            if not done:
                yield None
                continue
            try:
                chunk = upcoming.result()
            except StopAsyncIteration:
                return
            yield chunk
            upcoming = asyncio.ensure_future(anext(iterator))
    finally:
        upcoming.cancel()
