"""Chat for a model that has no roles: the messages' contents joined, or a template of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from codegen_edge.errors import InvalidInputError
from codegen_edge.server.http import answers
from codegen_edge.server.http.errors import bad_request
from codegen_edge.server.http.settings import ServerSettings
from codegen_edge.server.http.wanted import Result, TokenLogprob, Update, Wanted

_MOST_MESSAGES = 256


def as_completion(body: Any, settings: ServerSettings) -> dict[str, Any]:
    """The request for a completion that a chat request stands for.

    Raises:
        ApiError: 400 where it is malformed.
    """
    if not isinstance(body, Mapping):
        raise bad_request("the body must be a JSON object")
    fields = {name: value for name, value in body.items() if value is not None}
    messages = fields.pop("messages", None)
    if not isinstance(messages, list) or not messages or len(messages) > _MOST_MESSAGES:
        raise bad_request(f"messages must be a list of 1 to {_MOST_MESSAGES} messages", "messages")
    if fields.get("tools") or fields.get("functions"):
        raise bad_request("this model calls no tools", "tools")
    for name in ("prompt", "suffix", "echo", "best_of"):
        if name in fields:
            raise bad_request(f"{name} is no field of a chat", name)
    if "max_completion_tokens" in fields:
        fields["max_tokens"] = fields.pop("max_completion_tokens")
    is_with_logprobs, num_top = fields.pop("logprobs", False), fields.pop("top_logprobs", 0)
    if not isinstance(is_with_logprobs, bool):
        raise bad_request("logprobs must be true or false", "logprobs")
    if is_with_logprobs:
        fields["logprobs"] = num_top
    contents = [_content(message) for message in messages]
    return {**fields, "prompt": _prompt(contents, settings.chat_template)}


def _content(message: Any) -> dict[str, str]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise bad_request("a message needs a role and a content", "messages")
    content = message.get("content")
    if isinstance(content, list):  # parts
        texts = [part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
        if len(texts) < len(content) or not all(isinstance(text, str) for text in texts):
            raise bad_request("this model reads text only", "messages")
        content = "".join(str(text) for text in texts)
    if not isinstance(content, str):
        raise bad_request("a message needs a role and a content", "messages")
    return {"role": message["role"], "content": content}


def _prompt(messages: list[dict[str, str]], template: str | None) -> str:
    if template is None:
        return "".join(message["content"] for message in messages)
    text: str = compiled(template).render(messages=messages, add_generation_prompt=True)
    return text


@cache
def compiled(template: str) -> Any:
    """A template in jinja2's sandbox.

    Raises:
        InvalidInputError: jinja2 is not installed, or the template is malformed.
    """
    try:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as exc:
        raise InvalidInputError("a chat template needs jinja2: pip install jinja2") from exc
    try:
        return ImmutableSandboxedEnvironment().from_string(template)
    except TemplateError as exc:
        raise InvalidInputError(f"the chat template is malformed: {exc}") from exc


class ChatShape:
    """Completions as chat answers; see `completions.Shape`."""

    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted

    def whole(self, number: int, result: Result) -> dict[str, Any]:
        """A choice with its message."""
        message = {"role": "assistant", "content": result.text}
        return {**self._rest(number, result), "message": message}

    def first(self, number: int) -> list[dict[str, Any]]:
        """The role comes first."""
        delta = {"role": "assistant", "content": ""}
        return [{"index": number, "delta": delta, "logprobs": None, "finish_reason": None}]

    def piece(self, update: Update) -> dict[str, Any]:
        """A choice with what is new."""
        delta = {"content": update.text} if update.text else {}
        return {**self._rest(update.choice, update), "delta": delta}

    def _rest(self, number: int, update: Result | Update) -> dict[str, Any]:
        logprobs = None
        if self.wanted.logprobs is not None:
            logprobs = {"content": [self._token(token) for token in update.tokens]}
        return {"index": number, "logprobs": logprobs, "finish_reason": answers.finish_reason(update)}

    def _token(self, token: TokenLogprob) -> dict[str, Any]:
        tokenizer = self.wanted.served.model.tokenizer

        def entry(token_id: int, logprob: float | None) -> dict[str, Any]:
            raw = tokenizer.token_bytes(token_id)
            return {"token": raw.decode(errors="replace"), "logprob": logprob, "bytes": list(raw)}

        top = [entry(each, logprob) for each, logprob in token.top[: self.wanted.logprobs]]
        return {**entry(token.token_id, token.logprob), "top_logprobs": top}
