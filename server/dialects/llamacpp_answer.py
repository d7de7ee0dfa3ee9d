"""Completions as llama.cpp's clients read them (tools/server/server-task.cpp, to_json_non_oaicompat)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from codegen_edge.server.dialects.answering import Form
from codegen_edge.server.dialects.llamacpp_request import PromptTooLongError
from codegen_edge.server.engine import Ticket
from codegen_edge.server.http.errors import ApiError
from codegen_edge.server.http.wanted import Result, TokenLogprob, Update, Wanted

_STOP_TYPES = {"stop": "word", "stop_id": "eos", "end_of_text": "eos"}  # whatever else ends it is a limit
_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 503: "unavailable_error"}


def error_body(error: ApiError) -> dict[str, Any]:
    """llama.cpp's form of an error; its code is the status."""
    fields: dict[str, Any] = {
        "code": error.status,
        "message": error.message,
        "type": _KINDS.get(error.status, error.kind),
    }
    if isinstance(error, PromptTooLongError):
        fields |= {"n_prompt_tokens": error.num_tokens, "n_ctx": error.context_length}
    return {"error": fields}


LLAMACPP = Form(error=error_body)


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaOptions:
    """What an answer holds beside the text.

    Attributes:
        settings: that were used.
        id_slot: that was named; -1 for none.
        is_truncated: whether the prompt was cut.
        has_tokens: whether ids are answered; those of a stream's chunks always are.
        has_timings: whether every chunk of a stream has timings.
        response_fields: paths of the fields that are answered; None for all.
    """

    settings: Mapping[str, Any]
    id_slot: int = -1
    is_truncated: bool = False
    has_tokens: bool = False
    has_timings: bool = False
    response_fields: Sequence[str] | None = None


class LlamaWriter:
    """llama.cpp's answers; see `answering.Writer`.

    Args:
        wanted: the request.
        options: of the answer.
    """

    def __init__(self, wanted: Wanted, options: LlamaOptions) -> None:
        self._wanted = wanted
        self._options = options
        self._results: dict[int, Result] = {}

    def whole(self, found: Sequence[Result], ticket: Ticket) -> Any:
        """One object; a list of them where several completions were asked for."""
        answers = [self._final(number, result, ticket, is_streamed=False) for number, result in enumerate(found)]
        return answers[0] if len(answers) == 1 else answers

    def pieces(self, update: Update, ticket: Ticket) -> Iterator[dict[str, Any]]:
        """A chunk with what is new, and at the end one with everything but the text."""
        result = self._results.setdefault(update.choice, Result())
        result.text += update.text
        result.tokens += update.tokens
        if (update.text or update.tokens) and not self._wanted.is_empty:
            yield self._chunk(update, ticket)
        if update.finish_reason is not None:
            result.finish_reason = update.finish_reason
            yield self._final(update.choice, result, ticket, is_streamed=True)

    def _chunk(self, update: Update, ticket: Ticket) -> dict[str, Any]:
        num_predicted = len(self._results[update.choice].tokens)
        chunk: dict[str, Any] = {
            "index": update.choice,
            "content": update.text,
            "tokens": [token.token_id for token in update.tokens],
            "stop": False,
            "id_slot": self._options.id_slot,
            "tokens_predicted": num_predicted,
            "tokens_evaluated": len(self._prompt(update.choice)),
        }
        if self._wanted.logprobs:
            chunk["completion_probabilities"] = self._probabilities(update.tokens)
        if self._options.has_timings:
            chunk["timings"] = timings(ticket, num_predicted)
        return chunk

    def _final(self, number: int, result: Result, ticket: Ticket, *, is_streamed: bool) -> dict[str, Any]:
        tokens = [] if self._wanted.is_empty else result.tokens
        text = "" if self._wanted.is_empty else result.text
        ids = [token.token_id for token in tokens]
        num_evaluated = len(self._prompt(number))
        answer: dict[str, Any] = {
            "index": number,
            "content": "" if is_streamed else text,
            "tokens": ids if self._options.has_tokens and not is_streamed else [],
            "id_slot": self._options.id_slot,
            "stop": True,
            "model": self._wanted.served.name,
            "tokens_predicted": len(ids),
            "tokens_evaluated": num_evaluated,
            "generation_settings": dict(self._options.settings),
            "prompt": self._wanted.prompt_texts[self._prompt_number(number)],
            "has_new_line": "\n" in text,
            "truncated": self._options.is_truncated,
            "stop_type": "limit" if self._wanted.is_empty else _STOP_TYPES.get(result.finish_reason, "limit"),
            "stopping_word": "",
            "tokens_cached": num_evaluated + len(ids),  # what the slot holds; `cache_n` is what was not read again
            "timings": timings(ticket, len(ids)),
        }
        if answer["stop_type"] == "word":
            answer["stopping_word"] = self._stopping_word(text, ids)
        if self._wanted.logprobs and not is_streamed:
            answer["completion_probabilities"] = self._probabilities(tokens)
        paths = self._options.response_fields
        return answer if paths is None else selected(answer, paths)

    def _prompt_number(self, choice: int) -> int:
        return choice * len(self._wanted.job.prompts) // self._wanted.num_answered

    def _prompt(self, choice: int) -> tuple[int, ...]:
        return self._wanted.job.prompts[self._prompt_number(choice)]

    def _stopping_word(self, text: str, ids: Sequence[int]) -> str:
        generated = self._wanted.served.model.tokenizer.decode(ids)
        return next((word for word in self._wanted.job.params.stop if generated.startswith(word, len(text))), "")

    def _probabilities(self, tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
        return [
            {
                **self._probability(token.token_id, token.logprob),
                "top_logprobs": [self._probability(*each) for each in token.top[: self._wanted.logprobs]],
            }
            for token in tokens
        ]

    def _probability(self, token_id: int, logprob: float | None) -> dict[str, Any]:
        raw = self._wanted.served.model.tokenizer.token_bytes(token_id)
        return {"id": token_id, "token": raw.decode(errors="ignore"), "bytes": list(raw), "logprob": logprob}


def timings(ticket: Ticket, num_predicted: int) -> dict[str, Any]:
    """How long prompt and tokens took. Of several prompts these are the sums."""
    now = time.monotonic() if ticket.finished_at is None else ticket.finished_at
    first_at = now if ticket.first_token_at is None else ticket.first_token_at
    started_at = first_at if ticket.started_at is None else ticket.started_at
    num_read = ticket.job.num_prompt_tokens - ticket.num_cached
    return {
        "cache_n": ticket.num_cached,
        **_pace("prompt", num_read, 1000 * max(0.0, first_at - started_at)),
        **_pace("predicted", num_predicted, 1000 * max(0.0, now - first_at)),
    }


def _pace(name: str, num_tokens: int, milliseconds: float) -> dict[str, float]:
    return {
        f"{name}_n": num_tokens,
        f"{name}_ms": milliseconds,
        f"{name}_per_token_ms": milliseconds / num_tokens if num_tokens else 0.0,
        f"{name}_per_second": 1000 * num_tokens / milliseconds if milliseconds else 0.0,
    }


def selected(answer: Mapping[str, Any], paths: Sequence[str]) -> dict[str, Any]:
    """The fields at paths such as timings/prompt_n, each under its path; those that are not there are left out."""
    found = {}
    for path in paths:
        value: Any = answer
        for name in path.split("/"):
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None:
            found[path] = value
    return found
