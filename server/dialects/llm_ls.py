"""What huggingface/llm-ls speaks: text-generation-inference's POST /generate, and Ollama's POST /api/generate.

Text-generation-inference: greedy unless do_sample, temperature, top_k or top_p asks for samples, and 100 tokens; stop
strings are not part of the text. Ollama: temperature 0.8, top_k 40, top_p 0.9 and as many tokens as the context holds;
its repeat_penalty of 1.1 looks at the last 64 tokens, ours at all of them, and is 1 where it is not given.

Prompts that are too long are cut from the left.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from codegen_edge.server.dialects.answering import Form, in_form, respond
from codegen_edge.server.dialects.translation import Asked, any_model, fitted, ignored, nested, translate
from codegen_edge.server.engine import Ticket
from codegen_edge.server.http.answers import token_text
from codegen_edge.server.http.errors import ApiError, bad_request
from codegen_edge.server.http.fields import Fields
from codegen_edge.server.http.models import ServedModel
from codegen_edge.server.http.state import AppState
from codegen_edge.server.http.wanted import FINISH_REASONS, Result, Update, Wanted

_MOST_TOKENS = 1 << 20
_TGI_TOKENS = 100
_OLLAMA_TOKENS = 128  # are kept free where the length is not given
_MOST_STOPS, _LONGEST_STOP = 16, 256
_TGI_REASONS = {"stop": "stop_sequence", "stop_id": "eos_token", "end_of_text": "eos_token"}
_OLLAMA_LATEST = ":latest"


def detailed(error: ApiError) -> JSONResponse:
    """An error of /v1/completions with `detail` as well, which is all that llm-ls reads of it."""
    detail = [{"loc": error.param or "body", "msg": error.message, "type": error.kind}]
    return JSONResponse({**error.body, "detail": detail}, error.status, headers=error.headers)


def is_llm_ls(request: Request) -> bool:
    """Whether llm-ls asks."""
    return request.headers.get("user-agent", "").startswith("llm-ls/")


def _tgi_error(error: ApiError) -> dict[str, Any]:
    kinds = {400: "validation", 429: "overloaded"}
    return {"error": error.message, "error_type": kinds.get(error.status, "generation")}


TGI = Form(error=_tgi_error)
OLLAMA = Form(error=lambda error: {"error": error.message}, is_ndjson=True)


@in_form(TGI)
async def generate_tgi(request: Request) -> Response:
    """POST /generate."""
    state = AppState.of(request)
    fields = Fields(await state.read_json(request))
    served = any_model(state)
    text = fields.text("inputs")
    if text is None:
        raise bad_request("inputs must be a string", "inputs")
    parameters = nested(fields, "parameters")
    num_new = parameters.whole("max_new_tokens", _TGI_TOKENS, 1, _MOST_TOKENS)
    assert num_new is not None
    ids, _ = fitted(served, text, num_new)
    most = parameters.whole("truncate", None, 1, _MOST_TOKENS)
    completion = {
        **_tgi_sampling(parameters),
        "prompt": [ids if most is None else ids[-most:]],
        "max_tokens": num_new,
        "stop": list(parameters.texts("stop", most=_MOST_STOPS, longest=_LONGEST_STOP)),
        "logprobs": 0 if parameters.flag("details") else None,
    }
    is_whole = parameters.flag("return_full_text")
    wanted = translate(request, served, completion, state.caller(request))
    asked = Asked(wanted=wanted, ignored=ignored(fields, parameters=parameters))
    return await respond(request, asked, _TgiWriter(wanted, text if is_whole else ""), TGI)


def _tgi_sampling(parameters: Fields) -> dict[str, Any]:
    named = any(name in parameters for name in ("temperature", "top_k", "top_p"))
    is_sampled = parameters.flag("do_sample") or named
    temperature = parameters.number("temperature", 1.0, 0, 2)
    return {
        "temperature": temperature if is_sampled else 0,
        "top_k": parameters.whole("top_k", 0, 0, _MOST_TOKENS),
        "top_p": parameters.number("top_p", 1.0, 0, 1),
        "repetition_penalty": parameters.number("repetition_penalty", 1.0, 0.01, 100),
        "frequency_penalty": parameters.number("frequency_penalty", 0.0, -2, 2),
        "seed": parameters.whole("seed", None, 0, 2**64 - 1),
    }


class _TgiWriter:
    """See `answering.Writer`."""

    def __init__(self, wanted: Wanted, front: str) -> None:
        self._wanted = wanted
        self._front = front

    def whole(self, found: Sequence[Result], ticket: Ticket) -> dict[str, Any]:
        """The text, and details where log probabilities were asked for."""
        (result,) = found
        answer: dict[str, Any] = {"generated_text": self._front + result.text}
        if self._wanted.logprobs is not None:
            answer["details"] = {
                "finish_reason": _TGI_REASONS.get(result.finish_reason, "length"),
                "generated_tokens": len(result.tokens),
                "seed": self._wanted.job.params.seed,
                "prefill": [],
                "tokens": [
                    {
                        "id": token.token_id,
                        "text": token_text(self._wanted.served.model.tokenizer, token.token_id),
                        "logprob": token.logprob,
                        "special": False,
                    }
                    for token in result.tokens
                ],
            }
        return answer

    def pieces(self, update: Update, ticket: Ticket) -> Iterator[dict[str, Any]]:
        """Nothing: it is not streamed."""
        return iter(())


@in_form(OLLAMA)
async def generate_ollama(request: Request) -> Response:
    """POST /api/generate."""
    state = AppState.of(request)
    fields = Fields(await state.read_json(request))
    served = _ollama_model(fields, state)
    text = fields.text("prompt", "")
    assert text is not None
    if fields.get("images"):
        raise bad_request("this model reads text only", "images")
    if not text:
        fields.skip("keep_alive", "stream", "options")
        return JSONResponse({**_ollama_head(served), "response": "", "done": True, "done_reason": "load"})
    options = nested(fields, "options")
    num_new = options.whole("num_predict", -1, -2, _MOST_TOKENS)
    assert num_new is not None
    ids, _ = fitted(served, text, num_new if num_new >= 0 else _OLLAMA_TOKENS)
    seed = options.whole("seed", None, -(2**63), 2**63 - 1)
    completion = {
        "prompt": [ids],
        "suffix": fields.text("suffix"),
        "max_tokens": num_new if num_new >= 0 else max(1, served.context_length - len(ids)),
        "temperature": options.number("temperature", 0.8, 0, 2),
        "top_k": options.whole("top_k", 40, -1, _MOST_TOKENS),
        "top_p": options.number("top_p", 0.9, 0, 1),
        "min_p": options.number("min_p", 0.0, 0, 1),
        "repetition_penalty": options.number("repeat_penalty", 1.0, 0.01, 100),
        "presence_penalty": options.number("presence_penalty", 0.0, -2, 2),
        "frequency_penalty": options.number("frequency_penalty", 0.0, -2, 2),
        "seed": seed,
        "stop": list(options.texts("stop", most=_MOST_STOPS, longest=_LONGEST_STOP)),
    }
    fields.skip("keep_alive", "raw")  # a prompt is always taken as it is, and the model stays loaded
    options.skip("num_ctx", "num_keep", "num_thread", "num_gpu", "num_batch", "repeat_last_n")
    wanted = translate(request, served, completion, state.caller(request))
    asked = Asked(wanted=wanted, is_streamed=fields.flag("stream", True), ignored=ignored(fields, options=options))
    return await respond(request, asked, _OllamaWriter(wanted), OLLAMA)


def _ollama_model(fields: Fields, state: AppState) -> ServedModel:
    name = fields.text("model", most=256)
    if name is None:
        return any_model(state)
    known = state.models.get(name) or state.models.get(name.removesuffix(_OLLAMA_LATEST))
    if known is None:
        raise ApiError(404, f"model {name!r} not found; there are: {', '.join(sorted(state.models))}", param="model")
    return known


def _ollama_head(served: ServedModel) -> dict[str, Any]:
    return {"model": served.name, "created_at": datetime.now(UTC).isoformat()}


class _OllamaWriter:
    """See `answering.Writer`."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._arrived_at = time.monotonic()
        self._num_new = 0

    def whole(self, found: Sequence[Result], ticket: Ticket) -> dict[str, Any]:
        """The text with what it took."""
        (result,) = found
        text = "" if self._wanted.is_empty else result.text
        return {**_ollama_head(self._wanted.served), "response": text, **self._end(result.finish_reason, ticket)}

    def pieces(self, update: Update, ticket: Ticket) -> Iterator[dict[str, Any]]:
        """A line with what is new; the last one with what it took."""
        head = _ollama_head(self._wanted.served)
        if update.text and not self._wanted.is_empty:
            yield {**head, "response": update.text, "done": False}
        if update.finish_reason is not None:
            yield {**head, "response": "", **self._end(update.finish_reason, ticket)}

    def _end(self, finish_reason: str, ticket: Ticket) -> dict[str, Any]:
        now = time.monotonic() if ticket.finished_at is None else ticket.finished_at
        first_at = now if ticket.first_token_at is None else ticket.first_token_at
        started_at = first_at if ticket.started_at is None else ticket.started_at
        return {
            "done": True,
            "done_reason": FINISH_REASONS[finish_reason],
            "total_duration": _nanoseconds(now - self._arrived_at),
            "load_duration": 0,
            "prompt_eval_count": ticket.job.num_prompt_tokens,
            "prompt_eval_duration": _nanoseconds(first_at - started_at),
            "eval_count": 0 if self._wanted.is_empty else ticket.num_generated,
            "eval_duration": _nanoseconds(now - first_at),
        }


def _nanoseconds(seconds: float) -> int:
    return max(0, round(seconds * 1e9))
