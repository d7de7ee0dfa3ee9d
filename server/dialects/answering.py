"""What all dialects share on the way out: an answer at once or in pieces, and errors in the dialect's own form."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Protocol, cast

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from codegen_edge.errors import CancelledError, CodegenEdgeError
from codegen_edge.server.dialects.limits import limited
from codegen_edge.server.dialects.translation import Asked
from codegen_edge.server.engine import Ticket
from codegen_edge.server.http.completions import header_safe
from codegen_edge.server.http.errors import ApiError, as_api_error, bad_request
from codegen_edge.server.http.models import Running
from codegen_edge.server.http.state import AppState
from codegen_edge.server.http.streams import EventStream, unless_disconnected
from codegen_edge.server.http.wanted import Result, Update, Updates

_DATA, _DONE = b"data: ", b"data: [DONE]\n\n"

Handler = Callable[[Request], Awaitable[Response]]


class Writer(Protocol):
    """How a dialect writes completions."""

    def whole(self, found: Sequence[Result], ticket: Ticket) -> Any:
        """The answer, from all choices."""

    def pieces(self, update: Update, ticket: Ticket) -> Iterable[Any]:
        """The chunks of a stream that an update becomes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How a dialect writes what is no completion.

    Attributes:
        error: the body of an error.
        is_ndjson: whether a stream is lines of JSON; server-sent events without [DONE] otherwise.
    """

    error: Callable[[ApiError], dict[str, Any]]
    is_ndjson: bool = False


def in_form(form: Form) -> Callable[[Handler], Handler]:
    """Make a handler answer errors in a form."""

    def wrapped(handler: Handler) -> Handler:
        @wraps(handler)
        async def answering(request: Request) -> Response:
            try:
                return await handler(request)
            except (ApiError, CodegenEdgeError) as exc:
                error = as_api_error(exc)
                return JSONResponse(form.error(error), error.status, headers=error.headers)

        return answering

    return wrapped


async def respond(request: Request, asked: Asked, writer: Writer, form: Form) -> Response:
    """Run a request and answer it, as a stream or at once.

    Raises:
        ApiError: it is refused, or has failed before anything was sent.
        ClientGoneError: the client went away.
    """
    state, wanted = AppState.of(request), asked.wanted
    headers = {"X-Request-Id": header_safe(wanted.request_id), **wanted.headers}
    if asked.ignored:
        if state.settings.is_strict:
            raise bad_request(f"unknown fields: {', '.join(asked.ignored)}", asked.ignored[0])
        headers["X-Ignored-Fields"] = header_safe(", ".join(asked.ignored))
    running = await state.submit(wanted)
    if not asked.is_streamed:
        work = _whole(state, asked, running)
        found = await unless_disconnected(request, running, work, state.count_disconnect)
        return JSONResponse(writer.whole(found, running.ticket), headers=headers)
    # Headers go out when the request has a slot: until then it may still be refused.
    has_slot = running.first(state.settings.queue_seconds)
    await unless_disconnected(request, running, has_slot, state.count_disconnect)
    stream = EventStream(
        running,
        _chunks(asked, running, writer, form),
        headers=headers,
        write_seconds=state.settings.write_seconds,
        on_gone=state.count_disconnect,
    )
    return Framed(stream, is_ndjson=form.is_ndjson)  # type: ignore[return-value]


async def _whole(state: AppState, asked: Asked, running: Running) -> list[Result]:
    await running.first(state.settings.queue_seconds)
    found: dict[int, Result] = {}
    async for update in _updates(asked, running):
        result = found.setdefault(update.choice, Result())
        result.text += update.text
        result.tokens += update.tokens
        result.finish_reason = update.finish_reason or result.finish_reason
    return [found[number] for number in sorted(found)]


async def _chunks(asked: Asked, running: Running, writer: Writer, form: Form) -> AsyncIterator[Any]:
    try:
        async for update in _updates(asked, running):
            for chunk in writer.pieces(update, running.ticket):
                yield chunk
    except ApiError as exc:
        yield form.error(exc)


async def _updates(asked: Asked, running: Running) -> AsyncIterator[Update]:
    updates = cast(AsyncGenerator[Update, None], Updates(asked.wanted).of(running))
    async for update in limited(updates, running, asked.limits, asked.wanted.num_answered):
        if update.finish_reason == "cancelled":
            raise as_api_error(TimeoutError("the client reads too slowly") if running.is_stalled else CancelledError())
        yield update


class Framed:
    """A stream in other frames than OpenAI's.

    Args:
        stream: of server-sent events.
        is_ndjson: whether events become lines of JSON.
    """

    def __init__(self, stream: EventStream, *, is_ndjson: bool) -> None:
        self._stream = stream
        self._is_ndjson = is_ndjson

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As an ASGI application."""

        async def framed(message: Message) -> None:
            if message["type"] == "http.response.start":
                if self._is_ndjson:
                    MutableHeaders(scope=message)["content-type"] = "application/x-ndjson"
                await send(message)
                return
            body = self._framed(message["body"])
            if body or not message["more_body"]:
                await send({**message, "body": body})

        await self._stream(scope, receive, framed)

    def _framed(self, body: bytes) -> bytes:
        if body == _DONE:
            return b""
        if not self._is_ndjson:
            return body
        return body.removeprefix(_DATA)[:-1] if body.startswith(_DATA) else b""  # no comments among lines
