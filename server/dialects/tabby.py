"""Tabby's API: its /v1/completions, which is told from OpenAI's by `segments`; /v1/events and /v1/health.

Snippets that Tabby's clients send along stand in front as comments, as Tabby's server does it; the suffix is where the
completion stops. Defaults are Tabby's 64 tokens, and a greedy choice for its temperature of 0.1.
"""

from __future__ import annotations

import hmac
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from codegen_edge.server.dialects.answering import Form, respond
from codegen_edge.server.dialects.snippets import as_comments, read_snippets
from codegen_edge.server.dialects.translation import Asked, any_model, fitted, ignored, nested, translate
from codegen_edge.server.engine import Ticket
from codegen_edge.server.http.errors import bad_request
from codegen_edge.server.http.fields import Fields
from codegen_edge.server.http.guard import given_key
from codegen_edge.server.http.state import AppState
from codegen_edge.server.http.wanted import Result, Update, Wanted

_MAX_TOKENS = 64
_STANDARD = "standard"
_SNIPPETS = ("declarations", "relevant_snippets_from_changed_files", "relevant_snippets_from_recently_opened_files")
_FORM = Form(error=lambda error: error.body)  # Tabby's clients read the status only


def is_tabby(body: Any) -> bool:
    """Whether a body of /v1/completions is Tabby's."""
    return isinstance(body, Mapping) and isinstance(body.get("segments"), Mapping)


async def complete_tabby(request: Request, body: Mapping[str, Any]) -> Response:
    """POST /v1/completions, from Tabby's clients."""
    state = AppState.of(request)
    fields = Fields(body)
    segments, debug = nested(fields, "segments"), nested(fields, "debug_options")
    if fields.text("mode", _STANDARD) != _STANDARD:
        raise bad_request("mode must be standard: this model suggests no edits", "mode")
    served = any_model(state, fields.text("model", most=256))
    raw_prompt = debug.text("raw_prompt")
    prompt, has_crlf = (raw_prompt, False) if raw_prompt is not None else _prompt(segments, fields.text("language"))
    completion = {
        "prompt": [fitted(served, prompt, _MAX_TOKENS)[0]],
        "suffix": segments.text("suffix"),
        "max_tokens": _MAX_TOKENS,
        "temperature": fields.number("temperature", 0, 0, 2),
        "seed": fields.whole("seed", None, 0, 2**64 - 1),
    }
    fields.skip("user", "language", "prompt")
    segments.skip("filepath", "git_url", "clipboard", "edit_history", "prefix", *_SNIPPETS)
    wanted = translate(request, served, completion, state.caller(request))
    asked = Asked(wanted=wanted, ignored=ignored(fields, segments=segments, debug_options=debug))
    return await respond(request, asked, _Writer(wanted, has_crlf=has_crlf), _FORM)


def _prompt(segments: Fields, language: str | None) -> tuple[str, bool]:
    """The prompt, and whether lines end as on Windows: the model was not trained on that, so it is shown the others."""
    prefix = segments.text("prefix")
    if prefix is None:
        raise bad_request("segments must hold a prefix", "segments.prefix")
    snippets = [
        snippet
        for name in _SNIPPETS
        for snippet in read_snippets(segments.get(name, []), f"segments.{name}", filename="filepath", text="body")
    ]
    return as_comments(snippets, language) + prefix.replace("\r\n", "\n"), "\r\n" in prefix


class _Writer:
    """See `answering.Writer`."""

    def __init__(self, wanted: Wanted, *, has_crlf: bool) -> None:
        self._wanted = wanted
        self._has_crlf = has_crlf

    def whole(self, found: Sequence[Result], ticket: Ticket) -> dict[str, Any]:
        """One choice."""
        (result,) = found
        text = result.text.replace("\n", "\r\n") if self._has_crlf else result.text
        return {"id": self._wanted.request_id, "choices": [{"index": 0, "text": text}], "mode": _STANDARD}

    def pieces(self, update: Update, ticket: Ticket) -> Iterator[dict[str, Any]]:
        """Nothing: it is not streamed."""
        return iter(())


async def take_event(request: Request) -> Response:
    """POST /v1/events: what became of a completion. It is not stored, and not read."""
    return Response()


async def health(request: Request) -> Response:
    """GET /v1/health: what Tabby's clients look for. The model is named to those only who may use it."""
    state = AppState.of(request)
    key = (given_key(request.scope) or "").encode("utf-8", errors="replace")
    matches = [hmac.compare_digest(key, known.encode()) for known in state.settings.api_keys]
    version = f"v{metadata.version('codegen-edge')}"
    named = {"model": state.served[0].name} if any(matches) or not matches else {}
    return JSONResponse(
        {
            "status": "ok",
            **named,
            "device": "cpu",
            "arch": platform.machine(),
            "cpu_info": "",
            "cpu_count": os.cpu_count() or 1,
            "cuda_devices": [],
            # Below 0.9, Tabby's first version with settings of the server, which its clients would ask for.
            "version": {"build_date": "", "build_timestamp": "", "git_sha": "", "git_describe": version},
        }
    )
