"""llama.cpp's fields as those of /v1/completions (tools/server/server-task.cpp, params_from_json_cmpl)."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from codegen_edge.server.dialects.limits import Limits
from codegen_edge.server.dialects.translation import encode
from codegen_edge.server.http.errors import ApiError, bad_request
from codegen_edge.server.http.fields import Fields, token_ids
from codegen_edge.server.http.models import ServedModel
from codegen_edge.server.http.wanted import Wanted

_MOST_PROMPTS, _MOST_CHOICES, _MOST_PROBS = 64, 128, 20
_MOST_STOPS, _LONGEST_STOP = 16, 256
_MOST_BIASES = 1024
_MOST_TOKENS = 1 << 20
_RANDOM_SEED = 2**32 - 1  # llama.cpp's name for -1
_SEED_BITS = 32
_BANNED = -100  # what OpenAI's API calls a ban
_LARGEST_BIAS = 99.0  # 100 would force the token whatever else is likely


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a field that is not there means."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float

    def to_dict(self) -> dict[str, float]:
        """By llama.cpp's names."""
        return {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p, "min_p": self.min_p}


LLAMACPP_DEFAULTS = Defaults(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05)
"""llama.cpp's own."""


class PromptTooLongError(ApiError):
    """A prompt leaves no room in the context.

    Args:
        num_tokens: of the prompt; at least so many where it was too long to be tokenized.
        context_length: of the model.
    """

    def __init__(self, num_tokens: int, context_length: int) -> None:
        super().__init__(
            400,
            f"the request has {num_tokens} tokens, the context holds {context_length} with what is generated; "
            "shorten the prompt",
            kind="exceed_context_size_error",
            code="context_length_exceeded",
            param="prompt",
        )
        self.num_tokens, self.context_length = num_tokens, context_length


def read_prompts(fields: Fields, served: ServedModel) -> list[list[int]]:
    """Token ids of every prompt: of a string, of ids, of both mixed, or of a list of these.

    Raises:
        PromptTooLongError: one leaves no room for a new token.
        ApiError: 400 for something else.
    """
    given = fields.get("prompt", "")
    is_several = isinstance(given, list) and given and all(isinstance(each, str | list) for each in given)
    prompts = given if is_several else [given]
    if len(prompts) > _MOST_PROMPTS:
        raise bad_request(f"prompt takes at most {_MOST_PROMPTS} prompts, got {len(prompts)}", "prompt")
    return [_prompt_ids(prompt, served) for prompt in prompts]


def _prompt_ids(prompt: Any, served: ServedModel) -> list[int]:
    tokenizer, context = served.model.tokenizer, served.context_length
    parts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(parts, list) or not parts:
        raise bad_request("prompt must be a string, token ids, or a list of both", "prompt")
    num_characters = sum(len(part) for part in parts if isinstance(part, str))
    if num_characters > context * tokenizer.longest_token:
        raise PromptTooLongError(num_characters // tokenizer.longest_token, context)
    ids: list[int] = []
    for part in parts:
        ids += encode(served, part) if isinstance(part, str) else token_ids([part], "prompt", tokenizer.vocab_size)
    if len(ids) >= context:
        raise PromptTooLongError(len(ids), context)
    return ids


def read_sampling(fields: Fields, served: ServedModel, defaults: Defaults) -> dict[str, Any]:
    """What chooses tokens and ends them, by OpenAI's and vLLM's names.

    A seed that is not given is drawn here, so that the answer can name it.
    """
    temperature = max(0.0, fields.number("temperature", defaults.temperature, -1e9, 2))
    seed = fields.whole("seed", -1, -1, 2**64 - 1)
    num_probs = fields.whole("n_probs", fields.whole("logprobs", 0, 0, _MOST_PROBS), 0, _MOST_PROBS)
    return {
        "temperature": temperature,
        "top_k": max(0, fields.whole("top_k", defaults.top_k, -_MOST_TOKENS, _MOST_TOKENS) or 0),
        "top_p": fields.number("top_p", defaults.top_p, 0, 1),
        "min_p": fields.number("min_p", defaults.min_p, 0, 1),
        "repetition_penalty": fields.number("repeat_penalty", 1.0, 0.01, 100),
        "presence_penalty": fields.number("presence_penalty", 0.0, -2, 2),
        "frequency_penalty": fields.number("frequency_penalty", 0.0, -2, 2),
        "seed": secrets.randbits(_SEED_BITS) if seed in {-1, _RANDOM_SEED} else seed,
        "stop": list(fields.texts("stop", most=_MOST_STOPS, longest=_LONGEST_STOP)),
        "ignore_eos": fields.flag("ignore_eos"),
        "logit_bias": read_bias(fields.get("logit_bias", []), served),
        "logprobs": num_probs or None,
    }


def read_structure(fields: Fields) -> dict[str, Any]:
    """vLLM's field for llama.cpp's grammar (GBNF) and json_schema; an empty grammar is none.

    Raises:
        ApiError: 400 where both are given.
    """
    grammar, schema = fields.get("grammar", ""), fields.get("json_schema")
    if grammar and schema is not None:
        raise bad_request("grammar and json_schema do not go together", "grammar")
    if schema is not None:
        return {"structured_outputs": {"json": schema}}
    return {"structured_outputs": {"grammar": grammar}} if grammar else {}


def read_bias(given: Any, served: ServedModel) -> dict[str, float]:
    """OpenAI's biases of llama.cpp's: pairs or an object, of ids or texts, false for a ban.

    Raises:
        ApiError: 400 where it is something else.
    """
    pairs = list(given.items()) if isinstance(given, dict) else given
    if not isinstance(pairs, list) or len(pairs) > _MOST_BIASES:
        raise bad_request(f"logit_bias must be a list of at most {_MOST_BIASES} pairs, or an object", "logit_bias")
    biases: dict[str, float] = {}
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise bad_request("logit_bias must hold pairs of a token and a number or false", "logit_bias")
        token, value = pair
        biases |= {str(token_id): _bias(value) for token_id in _biased_ids(token, served, is_key=given is not pairs)}
    return biases


def _biased_ids(token: Any, served: ServedModel, *, is_key: bool) -> Iterable[int]:
    if is_key and token.isascii() and token.isdecimal():
        token = int(token)
    if isinstance(token, str):
        return encode(served, token) if token else ()
    return token_ids([token], "logit_bias", served.model.tokenizer.vocab_size)


def _bias(value: Any) -> float:
    if value is False:
        return _BANNED
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise bad_request("logit_bias takes numbers, and false for a ban", "logit_bias")
    return _BANNED if value <= _BANNED else float(min(value, _LARGEST_BIAS))


def read_num_predicted(fields: Fields, default: int = -1) -> int:
    """How many tokens are wanted; below 0 as many as the context holds."""
    given = fields.whole("n_predict", fields.whole("max_tokens", default, -2, _MOST_TOKENS), -2, _MOST_TOKENS)
    assert given is not None
    return given


def max_tokens(num_predicted: int, prompts: Iterable[list[int]], served: ServedModel) -> int:
    """The most new tokens of each prompt."""
    room = served.context_length - min(map(len, prompts))
    return max(1, room) if num_predicted < 0 else num_predicted


def read_choices(fields: Fields, served: ServedModel) -> int:
    """How many completions of a prompt; more than there are slots are not computed."""
    given = fields.whole("n_cmpl", fields.whole("n", 1, 1, _MOST_CHOICES), 1, _MOST_CHOICES)
    assert given is not None
    return min(given, served.engine.settings.slots)


def read_limits(fields: Fields, indent: int = 0) -> Limits:
    """llama.cpp's time for the tokens. That for the prompt means nothing there, nor here.

    A prompt that were given up half read would be answered with nothing, and the next one begin anew.
    """
    fields.skip("t_max_prompt_ms")
    milliseconds = fields.number("t_max_predict_ms", 0, -1, 1e9)
    return Limits(seconds=milliseconds / 1000 if milliseconds > 0 else None, indent=indent)


def skip_unused(fields: Fields) -> None:
    """Fields that change nothing here: prompts are kept by themselves, slots have no numbers."""
    fields.skip("cache_prompt", "n_cache_reuse", "n_keep", "n_discard", "samplers", "min_keep", "repeat_last_n")


def generation_settings(wanted: Wanted, sampling: Mapping[str, Any], num_predicted: int) -> dict[str, Any]:
    """The settings that were used, by llama.cpp's names."""
    params = wanted.job.params
    return {
        "n_ctx": wanted.served.context_length,
        "n_predict": num_predicted,
        "max_tokens": num_predicted,
        "seed": sampling["seed"],
        "temperature": params.temperature,
        "top_k": params.top_k,
        "top_p": params.top_p,
        "min_p": params.min_p,
        "repeat_penalty": params.repetition_penalty,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "stop": list(params.stop),
        "ignore_eos": sampling["ignore_eos"],
        "logit_bias": [{"token": int(each), "bias": bias} for each, bias in sampling["logit_bias"].items()],
        "n_probs": sampling["logprobs"] or 0,
    }
