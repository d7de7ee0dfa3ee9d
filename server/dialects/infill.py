"""POST /infill, what llama.vim and llama.vscode send with every key.

CodeGen 1 has no tokens for infilling. Code of other files stands in front as comments, then what is before the cursor;
all of it is cut from the left to fit the context. What follows the cursor is where the completion stops, no more.

Without a temperature the choice is greedy: the sampler `infill` that these clients name keeps to what is likeliest, and
is not known here. top_k 40, top_p 0.95 and min_p 0.05 are llama.cpp's where a temperature is given.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from codegen_edge.server.dialects.answering import in_form, respond
from codegen_edge.server.dialects.llamacpp import read_response_fields, read_slot
from codegen_edge.server.dialects.llamacpp_answer import LLAMACPP, LlamaOptions, LlamaWriter
from codegen_edge.server.dialects.llamacpp_request import (
    Defaults,
    generation_settings,
    max_tokens,
    read_choices,
    read_limits,
    read_num_predicted,
    read_sampling,
    skip_unused,
)
from codegen_edge.server.dialects.snippets import as_comments, read_snippets
from codegen_edge.server.dialects.translation import Asked, any_model, fitted, ignored, slot_caller, translate
from codegen_edge.server.http.fields import Fields
from codegen_edge.server.http.state import AppState

INFILL_DEFAULTS = Defaults(temperature=0.0, top_k=40, top_p=0.95, min_p=0.05)
_RESERVED_TOKENS = 128  # for the completion, where its length is not given: what these clients ask for
_WIDEST_INDENT = 1 << 16


@in_form(LLAMACPP)
async def infill(request: Request) -> Response:
    """POST /infill."""
    state = AppState.of(request)
    fields = Fields(await state.read_json(request))
    served = any_model(state, fields.text("model", most=256))
    sampling = read_sampling(fields, served, INFILL_DEFAULTS)
    num_predicted = read_num_predicted(fields)
    ids, is_cut = fitted(served, _prompt(fields), num_predicted if num_predicted >= 0 else _RESERVED_TOKENS)
    id_slot = read_slot(fields)
    completion: dict[str, Any] = {
        **sampling,
        "prompt": [ids],
        "suffix": fields.text("input_suffix"),
        "max_tokens": max_tokens(num_predicted, [ids], served),
        "n": read_choices(fields, served),
    }
    skip_unused(fields)
    # Warming up does not end a completion that somebody waits for.
    caller = slot_caller(request, id_slot, purpose="" if num_predicted else "warm-up")
    wanted = translate(request, served, completion, caller)
    options = LlamaOptions(
        settings=generation_settings(wanted, sampling, num_predicted),
        id_slot=id_slot,
        is_truncated=is_cut,
        has_tokens=fields.flag("return_tokens"),
        has_timings=fields.flag("timings_per_token"),
        response_fields=read_response_fields(fields),
    )
    limits = read_limits(fields, fields.whole("n_indent", 0, 0, _WIDEST_INDENT) or 0)
    asked = Asked(wanted=wanted, is_streamed=fields.flag("stream"), limits=limits, ignored=ignored(fields))
    return await respond(request, asked, LlamaWriter(wanted, options), LLAMACPP)


def _prompt(fields: Fields) -> str:
    extra = read_snippets(fields.get("input_extra", []), "input_extra", filename="filename", text="text")
    prefix, middle = fields.text("input_prefix", ""), fields.text("prompt", "")
    assert prefix is not None
    assert middle is not None
    return as_comments(extra) + prefix + middle
