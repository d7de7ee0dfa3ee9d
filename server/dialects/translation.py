"""What all dialects share on the way in: any of their bodies becomes the one internal request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request

from codegen_edge.errors import InvalidInputError
from codegen_edge.server.dialects.limits import NO_LIMITS, Limits
from codegen_edge.server.http.completions_request import END_OF_TEXT, Caller, completion_request
from codegen_edge.server.http.errors import as_api_error
from codegen_edge.server.http.fields import Fields
from codegen_edge.server.http.models import ServedModel
from codegen_edge.server.http.state import AppState
from codegen_edge.server.http.wanted import Wanted

_CUT_STEPS = 8  # a prompt is cut by eighths of the context


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request of some dialect, translated.

    Attributes:
        wanted: the internal request.
        is_streamed: whether the answer comes in pieces.
        ignored: fields of the body that mean nothing here.
        limits: ends of the text that the internal request does not know.
    """

    wanted: Wanted
    is_streamed: bool = False
    ignored: Sequence[str] = ()
    limits: Limits = NO_LIMITS


def translate(request: Request, served: ServedModel, completion: Mapping[str, Any], caller: Caller) -> Wanted:
    """The internal request.

    Args:
        request: that came.
        served: the model that answers it.
        completion: a body of /v1/completions that means the same.
        caller: who asks.

    Raises:
        ApiError: 400 with the name of the field.
    """
    state = AppState.of(request)
    wanted, _ = completion_request({**completion, "model": served.name}, state.models, state.settings, caller)
    return wanted


def any_model(state: AppState, *names: str | None) -> ServedModel:
    """The first of the names that is served; the server's first model where none is."""
    for name in names:
        if name is not None and name in state.models:
            return state.models[name]
    return state.served[0]


def slot_caller(request: Request, id_slot: int, *, purpose: str = "") -> Caller:
    """Who asks, where editors name one of llama.cpp's slots: a newer request for the slot replaces the older one.

    Every installation of llama.vim names slot 0, so the address counts, too. X-Client-Id goes before all of that.

    Args:
        request: that came.
        id_slot: below 0 names none.
        purpose: requests of different ones do not replace each other.
    """
    caller = AppState.of(request).caller(request)
    if caller.client is not None:
        return replace(caller, client=f"{caller.client}:{purpose}") if purpose else caller
    if id_slot < 0:
        return caller
    host = request.client.host if request.client is not None else ""
    return replace(caller, client=f"{caller.owner}:{host}:slot {id_slot}:{purpose}")


def encode(served: ServedModel, text: str) -> list[int]:
    """Token ids of a prompt; an empty one is the end of text.

    Raises:
        ApiError: 400 for a text that is not valid Unicode.
    """
    try:
        return served.model.tokenizer.encode(text or END_OF_TEXT)
    except InvalidInputError as exc:
        raise as_api_error(exc) from exc


def fitted(served: ServedModel, text: str, num_new: int) -> tuple[list[int], bool]:
    """The end of a text, as token ids that leave room for what is generated; and whether anything was cut.

    Args:
        served: the model.
        text: of any length.
        num_new: tokens that are generated; more than half of the context are not waited for.
    """
    # Before it is tokenized: no token stands for more characters.
    most = served.context_length * served.model.tokenizer.longest_token
    start = _cut(len(text), most, most)
    ids = encode(served, text[start:])
    kept = fitted_ids(served, ids, num_new)
    return kept, start > 0 or len(kept) < len(ids)


def fitted_ids(served: ServedModel, ids: list[int], num_new: int) -> list[int]:
    """The end of a prompt that leaves room for what is generated; see `fitted`."""
    context = served.context_length
    return ids[_cut(len(ids), context - min(max(1, num_new), context // 2), context) :]


def _cut(length: int, room: int, whole: int) -> int:
    """How much is cut from the left.

    In steps: a prompt that grows with every key keeps its beginning for a while, and with it what is known of it.
    """
    if length <= room:
        return 0
    step = max(1, whole // _CUT_STEPS)
    return min(length - 1, -(-(length - room) // step) * step)


def nested(fields: Fields, name: str) -> Fields:
    """The fields of an object inside; none where it is not there."""
    return Fields(fields.get(name, {}))


def ignored(fields: Fields, **inner: Fields) -> list[str]:
    """What nobody has read; of inner objects with their name in front."""
    return [*fields.ignored, *(f"{name}.{each}" for name, its in inner.items() for each in its.ignored)]
