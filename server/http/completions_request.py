"""OpenAI's completion request, field by field, as the one internal request."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from codegen_edge.errors import InvalidInputError
from codegen_edge.generation import GenerationParams
from codegen_edge.generation.editing import suffix_stops
from codegen_edge.server.engine import Job
from codegen_edge.server.http.errors import ApiError, as_api_error, bad_request
from codegen_edge.server.http.fields import Fields, token_ids
from codegen_edge.server.http.grammars import read_grammar
from codegen_edge.server.http.models import ServedModel
from codegen_edge.server.http.settings import ServerSettings
from codegen_edge.server.http.wanted import Wanted

_MOST_PROMPTS = 64
_MOST_CHOICES = 128
_MOST_LOGPROBS = 20
_MOST_STOPS, _LONGEST_STOP = 16, 256
_MOST_CONTEXTS = 16  # of ids in a prompt: truncate_prompt_tokens may cut them
_FORCED_BIAS = 1e4  # above any logit
_DEFAULT_TOKENS, _DEFAULT_TEMPERATURE = 16, 1.0  # OpenAI's
END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks.

    Attributes:
        owner: the key that was given; prompts of others are never looked up.
        client: names an editor whose newer request replaces its older one; None for others.
    """

    owner: str = ""
    client: str | None = None


def completion_request(
    body: Mapping[str, Any], models: Mapping[str, ServedModel], settings: ServerSettings, caller: Caller
) -> tuple[Wanted, Fields]:
    """Check a request for /v1/completions.

    Returns:
        The internal request, and the fields that are left to the caller: stream and stream_options.

    Raises:
        ApiError: 400 with the name of the field, or 404 for a model that is not served.
    """
    fields = Fields(body)
    served = find_model(fields, models)
    prompts, texts = _prompts(fields, served)
    # Fields of OpenAI's and others' clients that change nothing here.
    fields.skip("user", "request_id", "include_obfuscation", "priority", "store", "metadata", "service_tier")
    request_id = fields.text("request_id", most=256) or f"cmpl-{secrets.token_hex(12)}"
    max_tokens = fields.whole("max_tokens", _DEFAULT_TOKENS, 0, 1 << 20)
    assert max_tokens is not None
    suffix = fields.text("suffix")
    if suffix is not None and not suffix.strip():
        suffix = None  # nothing to meet
    num_choices, best_of = _choices(fields)
    is_echoed = fields.flag("echo")
    logprobs = fields.whole("logprobs", None, 0, _MOST_LOGPROBS)
    if is_echoed and best_of > num_choices:
        raise bad_request("echo does not go with best_of", "best_of")
    params = sampling_params(fields, served, settings, max_tokens=max(1, max_tokens), suffix=suffix)
    is_greedy = params["temperature"] == 0
    computed = 1 if is_greedy else best_of
    if logprobs is not None or best_of > num_choices:
        params["top_logprobs"] = logprobs or 0
    checked_params = make_params(params | {"n": computed})
    truncated = _truncated(fields, prompts, served)
    is_scored = is_echoed and logprobs is not None
    wanted = Wanted(
        served=served,
        job=Job(
            prompts=truncated,
            params=checked_params,
            prompt_logprobs=logprobs if is_scored else None,
            is_score_only=is_scored and max_tokens == 0,
            owner=caller.owner,
            client=caller.client,
        ),
        grammar=read_grammar(fields),
        prompt_texts=texts if truncated == prompts else tuple(map(served.model.tokenizer.decode, truncated)),
        num_choices=1 if is_greedy else num_choices,
        num_copies=num_choices if is_greedy else 1,
        is_echoed=is_echoed,
        logprobs=logprobs,
        has_token_ids=fields.flag("return_token_ids"),
        is_empty=max_tokens == 0,
        request_id=request_id,
        headers={} if suffix is None else {"X-Suffix": "stop-only"},
    )
    return wanted, fields


def find_model(fields: Fields, models: Mapping[str, ServedModel]) -> ServedModel:
    """The model that is named; the only one where none is."""
    name = fields.text("model", most=256)
    if name is None:
        if len({id(each) for each in models.values()}) == 1:
            return next(iter(models.values()))
        raise bad_request(f"model must be one of {', '.join(sorted(models))}", "model")
    if name not in models:
        raise ApiError(
            404,
            f"the model {name!r} is not served; there are: {', '.join(sorted(models))}",
            code="model_not_found",
            param="model",
        )
    return models[name]


def sampling_params(
    fields: Fields, served: ServedModel, settings: ServerSettings, *, max_tokens: int, suffix: str | None = None
) -> dict[str, Any]:
    """What GenerationParams takes, from OpenAI's and vLLM's names."""
    vocab_size = served.model.tokenizer.vocab_size
    eos = served.model.runtime.config.eos_token_id
    temperature = fields.number("temperature", _DEFAULT_TEMPERATURE, 0, 2)
    top_p = fields.number("top_p", 1.0, 0, 1)
    top_k = fields.whole("top_k", 0, -1, 1 << 20) or 0
    min_p = fields.number("min_p", 0.0, 0, 1)
    stop = fields.texts("stop", most=_MOST_STOPS, longest=_LONGEST_STOP)
    params: dict[str, Any] = {
        "max_new_tokens": max_tokens,
        "min_new_tokens": min(fields.whole("min_tokens", 0, 0, 1 << 20) or 0, max_tokens),
        "temperature": temperature,
        "presence_penalty": fields.number("presence_penalty", 0.0, -2, 2),
        "frequency_penalty": fields.number("frequency_penalty", 0.0, -2, 2),
        "repetition_penalty": fields.number("repetition_penalty", 1.0, 0.01, 100),
        "stop": stop if suffix is None else (*stop, *_suffix_stops(suffix)),
        "stop_ids": fields.ids("stop_token_ids", most=_MOST_STOPS, vocab_size=vocab_size),
        "suppressed_ids": (eos,) if fields.flag("ignore_eos") and eos < vocab_size else (),
        "max_seconds": settings.max_seconds,
    }
    seed = fields.whole("seed", None, -(2**63), 2**64 - 1)
    _read_bias(fields, params, vocab_size)
    # Editors always send them; without temperature they mean nothing.
    if temperature > 0:
        params |= {
            "top_p": top_p if top_p > 0 else 1e-9,
            "top_k": max(0, top_k),
            "min_p": min_p,
            "seed": None if seed is None else seed % 2**64,
        }
    return params


def make_params(params: dict[str, Any]) -> GenerationParams:
    """Check what only their combination shows."""
    try:
        return GenerationParams(**params)
    except InvalidInputError as exc:
        raise as_api_error(exc) from exc


def _read_bias(fields: Fields, params: dict[str, Any], vocab_size: int) -> None:
    given = fields.get("logit_bias", {})
    if not isinstance(given, dict) or len(given) > 1024:
        raise bad_request("logit_bias must be an object of at most 1024 token ids", "logit_bias")
    bias: dict[int, float] = {}
    banned = []
    for name, value in given.items():
        if not name.isascii() or not name.isdecimal() or len(name) > 9 or int(name) >= vocab_size:
            raise bad_request(f"logit_bias: {name[:20]!r} is no token id in 0…{vocab_size - 1}", "logit_bias")
        if isinstance(value, bool) or not isinstance(value, int | float) or not -100 <= value <= 100:
            raise bad_request("logit_bias takes numbers in -100…100", "logit_bias")
        if value == -100:
            banned.append(int(name))
        else:
            bias[int(name)] = _FORCED_BIAS if value == 100 else float(value)
    params["logit_bias"] = bias
    params["suppressed_ids"] = (*params["suppressed_ids"], *banned)


def _suffix_stops(suffix: str) -> tuple[str, ...]:
    """Where the completion meets what follows; the model is not shown it."""
    try:
        return tuple(suffix_stops(suffix))
    except InvalidInputError as exc:
        raise as_api_error(exc) from exc


def _choices(fields: Fields) -> tuple[int, int]:
    num_choices = fields.whole("n", 1, 1, _MOST_CHOICES)
    assert num_choices is not None
    best_of = fields.whole("best_of", num_choices, 1, _MOST_CHOICES)
    assert best_of is not None
    if best_of < num_choices:
        raise bad_request(f"best_of must be at least n, got {best_of} and {num_choices}", "best_of")
    return num_choices, best_of


def _prompts(fields: Fields, served: ServedModel) -> tuple[tuple[tuple[int, ...], ...], tuple[str, ...]]:
    """Token ids and texts of a string, a list of strings, ids, or a list of both."""
    given = fields.get("prompt", END_OF_TEXT)
    items = [given] if isinstance(given, str) or (_is_ids(given) and given) else given
    if not isinstance(items, list) or not items:
        raise bad_request("prompt must be a string, a list of strings, token ids, or a list of lists of them", "prompt")
    if len(items) > _MOST_PROMPTS:
        raise bad_request(f"prompt takes at most {_MOST_PROMPTS} prompts, got {len(items)}", "prompt")
    read = [_prompt(item, served) for item in items]
    return tuple(ids for ids, _ in read), tuple(text for _, text in read)


def _is_ids(given: Any) -> bool:
    return isinstance(given, list) and all(isinstance(each, int | float) for each in given)


def _prompt(item: Any, served: ServedModel) -> tuple[tuple[int, ...], str]:
    tokenizer = served.model.tokenizer
    if isinstance(item, str):
        # Before it is tokenized: no tokenizer of ours makes a token of more than so many characters.
        most = served.context_length * tokenizer.longest_token
        if len(item) > most:
            raise bad_request(
                f"the prompt has {len(item)} characters, more than the {served.context_length} tokens of the context "
                f"can hold ({most})",
                "prompt",
                code="context_length_exceeded",
            )
        try:
            ids = tuple(tokenizer.encode(item or END_OF_TEXT))
        except InvalidInputError as exc:
            raise as_api_error(exc) from exc
        return ids, item
    if not _is_ids(item) or not item:
        raise bad_request("prompt holds something that is neither text nor token ids", "prompt")
    if len(item) > served.context_length * _MOST_CONTEXTS:
        raise bad_request(
            f"the prompt has {len(item)} tokens, the context {served.context_length}",
            "prompt",
            code="context_length_exceeded",
        )
    ids = token_ids(item, "prompt", tokenizer.vocab_size)
    return ids, tokenizer.decode(ids)


def _truncated(
    fields: Fields, prompts: tuple[tuple[int, ...], ...], served: ServedModel
) -> tuple[tuple[int, ...], ...]:
    """vLLM's truncate_prompt_tokens: the last so many tokens of each."""
    most = fields.whole("truncate_prompt_tokens", None, -1, 1 << 20)
    if most is None:
        return prompts
    most = served.context_length - 1 if most == -1 else most
    if most < 1:
        raise bad_request("truncate_prompt_tokens must be -1 or at least 1", "truncate_prompt_tokens")
    return tuple(prompt[-most:] for prompt in prompts)
