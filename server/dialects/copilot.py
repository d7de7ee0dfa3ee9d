"""FauxPilot's routes, for GitHub Copilot's extensions with another proxy and for whatever was made for FauxPilot.

What is not given means what FauxPilot meant by it: temperature 0.6 and 16 tokens; its frequency_penalty of 1, which was
none of OpenAI's, is left out. A model that is not served is the server's first one. A prompt that is too long is cut
from the left: Copilot counts tokens with a tokenizer of its own.
"""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from codegen_edge.server.dialects.translation import any_model, fitted, fitted_ids
from codegen_edge.server.http.completions import TextShape, answer
from codegen_edge.server.http.completions_request import completion_request
from codegen_edge.server.http.errors import bad_request
from codegen_edge.server.http.fields import Fields, token_ids
from codegen_edge.server.http.guard import given_key
from codegen_edge.server.http.models import ServedModel
from codegen_edge.server.http.state import AppState

_UNUSED = ("extra", "nwo", "feature_flags")  # of the repository and the experiments
_DEFAULT_TOKENS, _DEFAULT_TEMPERATURE = 16, 0.6
_MOST_TOKENS = 1 << 20
_TOKEN_SECONDS, _REFRESH_SECONDS = 1800, 1500  # GitHub's


async def complete(request: Request) -> Response:
    """POST /v1/engines/{engine}/completions."""
    state = AppState.of(request)
    body = await state.read_json(request)
    fields = Fields(body)
    served = any_model(state, fields.text("model", most=256), request.path_params["engine"])
    num_new = fields.whole("max_tokens", _DEFAULT_TOKENS, 0, _MOST_TOKENS)
    num_choices = fields.whole("n", 1, 1, _MOST_TOKENS)
    assert num_new is not None
    assert num_choices is not None
    completion = {name: value for name, value in body.items() if value is not None and name not in _UNUSED} | {
        "model": served.name,
        "max_tokens": num_new,
        "n": min(num_choices, served.engine.settings.slots),
        "temperature": fields.get("temperature", _DEFAULT_TEMPERATURE),
        "prompt": _prompts(fields.get("prompt", ""), served, num_new),
    }
    wanted, rest = completion_request(completion, state.models, state.settings, state.caller(request))
    return await answer(request, wanted, rest, TextShape(wanted))


def _prompts(given: Any, served: ServedModel, num_new: int) -> list[list[int]]:
    """Cut from the left."""
    is_one = isinstance(given, str) or (isinstance(given, list) and bool(given) and isinstance(given[0], int))
    prompts = [given] if is_one else given
    if not isinstance(prompts, list) or not prompts:
        raise bad_request("prompt must be a string, a list of strings, token ids, or a list of lists of them", "prompt")
    return [_prompt(prompt, served, num_new) for prompt in prompts]


def _prompt(prompt: Any, served: ServedModel, num_new: int) -> list[int]:
    if isinstance(prompt, str):
        return fitted(served, prompt, num_new)[0]
    if not isinstance(prompt, list) or not prompt:
        raise bad_request("prompt holds something that is neither text nor token ids", "prompt")
    return fitted_ids(served, list(token_ids(prompt, "prompt", served.model.tokenizer.vocab_size)), num_new)


async def token(request: Request) -> Response:
    """GET /copilot_internal/v2/token: the extension asks for one before anything else, and sends it along.

    It is the key that the request came with, or one that means nothing where the server asks for none.
    """
    return JSONResponse(
        {
            "token": given_key(request.scope) or "none",
            "expires_at": int(time.time()) + _TOKEN_SECONDS,
            "refresh_in": _REFRESH_SECONDS,
            "chat_enabled": False,
            "code_quote_enabled": False,
            "copilotignore_enabled": False,
            "public_suggestions": "enabled",
            "telemetry": "disabled",
        }
    )
