"""Completions as the commands print them: text, JSON, and how fast they were written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codegen_edge.generation.output import Completion, TextEvent


def completion_fields(completion: Completion) -> dict[str, Any]:
    """A completion for JSON."""
    fields: dict[str, Any] = {
        "text": completion.text,
        "token_ids": list(completion.token_ids),
        "prompt_tokens": completion.prompt_tokens,
        "finish_reason": completion.finish_reason,
        "prefill_ms": round(completion.prefill_ms, 3),
        "decode_ms": round(completion.decode_ms, 3),
        "decode_tokens_per_second": round(completion.decode_tokens_per_second, 3),
    }
    if completion.logprobs is not None:
        fields["logprobs"] = completion.logprobs
        fields["top_logprobs"] = completion.top_logprobs
    if completion.drafted_tokens:
        fields["drafted_tokens"], fields["accepted_tokens"] = completion.drafted_tokens, completion.accepted_tokens
    if completion.score is not None:
        fields["score"] = completion.score
    if completion.alternatives:
        fields["alternatives"] = [completion_fields(each) for each in completion.alternatives]
    return fields


def event_fields(event: TextEvent) -> dict[str, Any]:
    """A piece of text for JSON lines; the last line of all is the completion."""
    fields: dict[str, Any] = {"event": "token", "text": event.text, "token_id": event.token_id}
    if event.sample:
        fields["sample"] = event.sample
    if event.finish_reason is not None:
        fields["finish_reason"] = event.finish_reason
    if event.logprob is not None:
        fields["logprob"], fields["top_logprobs"] = event.logprob, event.top_logprobs
    return fields


def speed_line(completion: Completion) -> str:
    """Tokens, how many of them per second, and when the first one came."""
    rows = (completion, *completion.alternatives)
    count = sum(len(each.token_ids) for each in rows)
    named = "1 token" if count == 1 else f"{count} tokens"
    seconds = max(each.decode_ms for each in rows) / 1000
    steps = count - (0 if completion.score is not None else len(rows))  # the first ones came with the prefill
    if steps > 0 and seconds > 0:
        named += f", {steps / seconds:.1f} tokens/s"
    return named if completion.score is not None else f"{named}; the first one after {completion.prefill_ms:.0f} ms"
