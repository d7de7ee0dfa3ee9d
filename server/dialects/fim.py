"""Mistral's fill-in-the-middle API: POST /v1/fim/completions, which Continue sends for autocompletion.

CodeGen 1 is shown what is before the cursor only; the suffix is where the completion stops. What is not given: greedy,
and 128 tokens. A prompt that is too long is cut from the left.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from codegen_edge.server.dialects.translation import fitted
from codegen_edge.server.http.chat import ChatShape
from codegen_edge.server.http.completions import answer
from codegen_edge.server.http.completions_request import completion_request, find_model
from codegen_edge.server.http.errors import bad_request
from codegen_edge.server.http.fields import Fields
from codegen_edge.server.http.state import AppState
from codegen_edge.server.http.wanted import Update

_DEFAULT_TOKENS = 128
_MOST_TOKENS = 1 << 20
_RENAMED = {"random_seed": "seed", "max_completion_tokens": "max_tokens"}
_ABSENT = ("echo", "best_of", "logprobs")


class FimShape(ChatShape):
    """Chat answers whose every chunk has a content: Continue joins them without looking."""

    def piece(self, update: Update) -> dict[str, Any]:
        """A choice with what is new."""
        return {**super().piece(update), "delta": {"content": update.text}}


async def complete(request: Request) -> Response:
    """POST /v1/fim/completions and /fim/completions."""
    state = AppState.of(request)
    body = await state.read_json(request)
    fields = Fields(body)
    given = {_RENAMED.get(name, name): value for name, value in body.items() if value is not None}
    for name in _ABSENT:
        if name in given:
            raise bad_request(f"{name} is no field of a fill-in-the-middle request", name)
    translated = Fields(given)
    served = find_model(fields, state.models)
    num_new = translated.whole("max_tokens", _DEFAULT_TOKENS, 0, _MOST_TOKENS)
    prompt = fields.text("prompt")
    if prompt is None:
        raise bad_request("prompt must be what is before the cursor", "prompt")
    assert num_new is not None
    completion = {"temperature": 0, **given, "max_tokens": num_new, "prompt": fitted(served, prompt, num_new)[0]}
    wanted, rest = completion_request(completion, state.models, state.settings, state.caller(request))
    return await answer(request, wanted, rest, FimShape(wanted))
