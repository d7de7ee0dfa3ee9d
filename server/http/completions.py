"""POST /v1/completions and /v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from codegen_edge.errors import CancelledError
from codegen_edge.server.http import answers, chat
from codegen_edge.server.http.completions_request import completion_request
from codegen_edge.server.http.errors import as_api_error, bad_request
from codegen_edge.server.http.fields import Fields
from codegen_edge.server.http.models import Running
from codegen_edge.server.http.state import AppState
from codegen_edge.server.http.streams import EventStream, unless_disconnected
from codegen_edge.server.http.wanted import Result, Update, Updates, Wanted, results


class Shape(Protocol):
    """How completions are written: whole ones, and the chunks of a stream."""

    @property
    def kind(self) -> str:
        """`object` of a whole answer."""

    @property
    def chunk_kind(self) -> str:
        """`object` of a chunk."""

    def whole(self, number: int, result: Result) -> dict[str, Any]:
        """A choice."""

    def first(self, number: int) -> list[dict[str, Any]]:
        """Choices that go in front of a choice's first piece."""

    def piece(self, update: Update) -> dict[str, Any]:
        """A choice of a chunk."""


class TextShape:
    """OpenAI's completions."""

    kind = chunk_kind = "text_completion"

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self._writers: dict[int, answers.LogprobWriter] = {}

    def _writer(self, number: int) -> answers.LogprobWriter:
        if number not in self._writers:
            self._writers[number] = answers.LogprobWriter(self.wanted.served.model.tokenizer)
        return self._writers[number]

    def whole(self, number: int, result: Result) -> dict[str, Any]:
        """A choice."""
        return answers.choice(self.wanted, number, result, self._writer(number))

    def first(self, number: int) -> list[dict[str, Any]]:
        """Choices that go in front of a choice's first piece."""
        return []

    def piece(self, update: Update) -> dict[str, Any]:
        """A choice of a chunk."""
        return answers.choice(self.wanted, update.choice, update, self._writer(update.choice))


async def complete_body(request: Request, body: Any) -> Response:
    """POST /v1/completions, with its body read."""
    state = AppState.of(request)
    wanted, fields = completion_request(body, state.models, state.settings, state.caller(request))
    return await answer(request, wanted, fields, TextShape(wanted))


async def chat_complete(request: Request) -> Response:
    """POST /v1/chat/completions."""
    state = AppState.of(request)
    body = await state.read_json(request)
    translated = chat.as_completion(body, state.settings)
    wanted, fields = completion_request(translated, state.models, state.settings, state.caller(request))
    return await answer(request, wanted, fields, chat.ChatShape(wanted))


async def answer(request: Request, wanted: Wanted, fields: Fields, shape: Shape) -> Response:
    """Run a request and answer it, as a stream or at once."""
    state = AppState.of(request)
    is_streamed, has_usage, is_continuous = _streaming(fields)
    if is_streamed and wanted.job.params.n > wanted.num_choices:
        raise bad_request("best_of cannot be streamed: the best one is known at the end", "best_of")
    headers = {"X-Request-Id": header_safe(wanted.request_id), **wanted.headers}
    if fields.ignored:
        if state.settings.is_strict:
            raise bad_request(f"unknown fields: {', '.join(fields.ignored)}", fields.ignored[0])
        headers["X-Ignored-Fields"] = header_safe(", ".join(fields.ignored))
    running = await state.submit(wanted)
    if is_streamed:
        # Headers go out when the request has a slot: until then it may still be refused.
        has_slot = running.first(state.settings.queue_seconds)
        await unless_disconnected(request, running, has_slot, state.count_disconnect)
        return EventStream(  # type: ignore[return-value]
            running,
            _chunks(wanted, running, shape, has_usage=has_usage, is_continuous=is_continuous),
            headers=headers,
            write_seconds=state.settings.write_seconds,
            on_gone=state.count_disconnect,
        )
    found = await unless_disconnected(request, running, _whole(state, wanted, running), state.count_disconnect)
    choices = [shape.whole(number, result) for number, result in enumerate(found)]
    counted = answers.usage(wanted, running.ticket, answers.num_completed(wanted, running.ticket))
    return JSONResponse({**answers.head(wanted, shape.kind), "choices": choices, "usage": counted}, headers=headers)


async def _whole(state: AppState, wanted: Wanted, running: Running) -> list[Result]:
    await running.first(state.settings.queue_seconds)
    return await results(wanted, running)


def _streaming(fields: Fields) -> tuple[bool, bool, bool]:
    is_streamed = fields.flag("stream")
    options = fields.get("stream_options")
    if options is None:
        return is_streamed, False, False
    if not is_streamed:
        raise bad_request("stream_options needs stream", "stream_options")
    inner = Fields(options)
    return True, inner.flag("include_usage"), inner.flag("continuous_usage_stats")


async def _chunks(
    wanted: Wanted, running: Running, shape: Shape, *, has_usage: bool, is_continuous: bool
) -> AsyncIterator[dict[str, Any]]:
    head = answers.head(wanted, shape.chunk_kind)
    begun: set[int] = set()

    def chunk(choices: list[dict[str, Any]], counted: dict[str, Any] | None) -> dict[str, Any]:
        return {**head, "choices": choices, **({"usage": counted} if has_usage or counted else {})}

    def counted() -> dict[str, Any]:
        return answers.usage(wanted, running.ticket, answers.num_completed(wanted, running.ticket))

    async for update in Updates(wanted).of(running):
        if update.choice not in begun:
            begun.add(update.choice)
            for first in shape.first(update.choice):
                yield chunk([first], None)
        if update.finish_reason == "cancelled":
            raise as_api_error(CancelledError())
        yield chunk([shape.piece(update)], counted() if is_continuous else None)
    if has_usage:
        yield chunk([], counted())


def header_safe(text: str) -> str:
    """A text that came from a client, as the value of a header."""
    return "".join(each if each.isascii() and each.isprintable() else "?" for each in text)[:512]
