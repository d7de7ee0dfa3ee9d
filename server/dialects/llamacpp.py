"""llama.cpp's own API, for its clients: POST /completion, GET /props, /slots and /lora-adapters.

What is not given means what it means in llama.cpp: temperature 0.8, top_k 40, top_p 0.95, min_p 0.05, no penalties, a
random seed, and as many tokens as the context holds. Penalties look at the whole text, not at its last 64 tokens.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from codegen_edge.server.dialects.answering import in_form, respond
from codegen_edge.server.dialects.llamacpp_answer import LLAMACPP, LlamaOptions, LlamaWriter
from codegen_edge.server.dialects.llamacpp_request import (
    LLAMACPP_DEFAULTS,
    generation_settings,
    max_tokens,
    read_choices,
    read_limits,
    read_num_predicted,
    read_prompts,
    read_sampling,
    read_structure,
    skip_unused,
)
from codegen_edge.server.dialects.translation import Asked, any_model, ignored, slot_caller, translate
from codegen_edge.server.http.completions_request import END_OF_TEXT
from codegen_edge.server.http.errors import ApiError, bad_request
from codegen_edge.server.http.fields import Fields
from codegen_edge.server.http.models import ServedModel
from codegen_edge.server.http.state import AppState

_MOST_FIELDS = 64
_MOST_SLOTS = 1 << 16


@in_form(LLAMACPP)
async def complete(request: Request) -> Response:
    """POST /completion and /completions."""
    state = AppState.of(request)
    fields = Fields(await state.read_json(request))
    served = any_model(state, fields.text("model", most=256))
    prompts = read_prompts(fields, served)
    sampling = read_sampling(fields, served, LLAMACPP_DEFAULTS)
    num_predicted = read_num_predicted(fields)
    id_slot = read_slot(fields)
    completion = {
        **sampling,
        **read_structure(fields),
        "prompt": prompts,
        "max_tokens": max_tokens(num_predicted, prompts, served),
        "n": read_choices(fields, served),
    }
    skip_unused(fields)
    wanted = translate(request, served, completion, slot_caller(request, id_slot))
    options = LlamaOptions(
        settings=generation_settings(wanted, sampling, num_predicted),
        id_slot=id_slot,
        has_tokens=fields.flag("return_tokens"),
        has_timings=fields.flag("timings_per_token"),
        response_fields=read_response_fields(fields),
    )
    limits = read_limits(fields)
    asked = Asked(wanted=wanted, is_streamed=fields.flag("stream"), limits=limits, ignored=ignored(fields))
    return await respond(request, asked, LlamaWriter(wanted, options), LLAMACPP)


def read_slot(fields: Fields) -> int:
    """The slot that is named; -1 for none."""
    id_slot = fields.whole("id_slot", -1, -1, _MOST_SLOTS)
    assert id_slot is not None
    return id_slot


def read_response_fields(fields: Fields) -> tuple[str, ...] | None:
    """The paths that are to be answered; None for all, as with an empty list."""
    given = fields.get("response_fields", [])
    if not isinstance(given, list) or len(given) > _MOST_FIELDS or not all(isinstance(each, str) for each in given):
        raise bad_request(f"response_fields must be a list of at most {_MOST_FIELDS} strings", "response_fields")
    return tuple(given) or None


@in_form(LLAMACPP)
async def props(request: Request) -> Response:
    """GET /props, of the model that ?model= names."""
    served = _named(request)
    return JSONResponse(
        {
            "default_generation_settings": {
                "n_ctx": served.context_length,
                "params": {**LLAMACPP_DEFAULTS.to_dict(), "n_predict": -1, "seed": -1, "repeat_penalty": 1.0},
            },
            "total_slots": served.engine.settings.slots,
            "model_alias": served.name,
            "model_path": served.name,  # where it lies is nobody's business
            "modalities": {"vision": False, "audio": False},
            "chat_template": "",
            "bos_token": END_OF_TEXT,
            "eos_token": END_OF_TEXT,
            "build_info": f"codegen-edge {metadata.version('codegen-edge')}",
        }
    )


@in_form(LLAMACPP)
async def slots(request: Request) -> Response:
    """GET /slots: how many are taken. Ours have no numbers: those that are taken are listed first."""
    served = _named(request)
    engine = served.engine.snapshot()
    if request.query_params.get("fail_on_no_slot") and not engine.free_slots:
        raise ApiError(503, "no slot is free", kind="server_error", code="no_slot")
    num_taken = engine.slots - engine.free_slots
    listed: list[dict[str, Any]] = [
        {"id": number, "n_ctx": served.context_length, "speculative": False, "is_processing": number < num_taken}
        for number in range(engine.slots)
    ]
    return JSONResponse(listed)


async def lora_adapters(request: Request) -> Response:
    """GET /lora-adapters: none."""
    return JSONResponse([])


def _named(request: Request) -> ServedModel:
    return any_model(AppState.of(request), request.query_params.get("model"))
