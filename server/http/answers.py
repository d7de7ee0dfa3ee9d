"""Completions as OpenAI's clients read them."""

from __future__ import annotations

import codecs
import time
from collections.abc import Sequence
from typing import Any

from codegen_edge.server.engine import Ticket
from codegen_edge.server.http.wanted import FINISH_REASONS, Result, TokenLogprob, Update, Wanted
from codegen_edge.tokenizer import Tokenizer


def token_text(tokenizer: Tokenizer, token_id: int) -> str:
    """A token as a key; bytes that are no whole characters are named, as OpenAI does."""
    raw = tokenizer.token_bytes(token_id)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


class LogprobWriter:
    """The `logprobs` of one choice, piece by piece: offsets count on.

    Args:
        tokenizer: of the model.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def write(self, tokens: Sequence[TokenLogprob], num_top: int) -> dict[str, Any]:
        """OpenAI's four lists; an offset is the number of characters before the token's first whole one."""
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(self._tokenizer.token_bytes(token.token_id)))
        return {
            "tokens": [token_text(self._tokenizer, token.token_id) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [self._top(token, num_top) for token in tokens],
            "text_offset": offsets,
        }

    def _top(self, token: TokenLogprob, num_top: int) -> dict[str, float] | None:
        """The likeliest ones and, where it is none of them, the token itself: up to num_top + 1 entries."""
        if token.logprob is None:
            return None
        top = {token_text(self._tokenizer, each): logprob for each, logprob in token.top[:num_top]}
        top.setdefault(token_text(self._tokenizer, token.token_id), token.logprob)
        return top


def usage(wanted: Wanted, ticket: Ticket, num_completed: int) -> dict[str, Any]:
    """How many tokens were read and generated."""
    prompt_tokens = wanted.job.num_prompt_tokens
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": num_completed,
        "total_tokens": prompt_tokens + num_completed,
        "prompt_tokens_details": {"cached_tokens": ticket.num_cached},
    }


def head(wanted: Wanted, kind: str) -> dict[str, Any]:
    """What every answer and every chunk begins with."""
    return {"id": wanted.request_id, "object": kind, "created": int(time.time()), "model": wanted.served.name}


def choice(wanted: Wanted, number: int, update: Update | Result, writer: LogprobWriter) -> dict[str, Any]:
    """A choice of /v1/completions, whole or a piece of it."""
    fields: dict[str, Any] = {
        "index": number,
        "text": update.text,
        "logprobs": None if wanted.logprobs is None else writer.write(update.tokens, wanted.logprobs),
        "finish_reason": finish_reason(update),
    }
    if update.finish_reason == "deadline":
        fields["x_reason"] = "deadline"
    if wanted.has_token_ids:
        fields["token_ids"] = [token.token_id for token in update.tokens]
    return fields


def finish_reason(update: Update | Result) -> str | None:
    """In the words of OpenAI's clients."""
    return None if update.finish_reason is None else FINISH_REASONS[update.finish_reason]


def num_completed(wanted: Wanted, ticket: Ticket) -> int:
    """Tokens that the client gets, all copies counted."""
    return 0 if wanted.is_empty else ticket.num_generated * wanted.num_copies
