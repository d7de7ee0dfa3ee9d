"""What a generation gives: events while it runs, completions at its end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from codegen_edge.errors import InvalidInputError
from codegen_edge.generation import FinishReason, GenerationLoop, GenerationParams, TextAssembler, TokenEvent
from codegen_edge.generation.beams import Beam
from codegen_edge.generation.speculation import Speculator
from codegen_edge.tokenizer import Tokenizer

TopLogprobs = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What was generated for one prompt.

    Attributes:
        text: the new text, without the prompt; cut before a stop string.
        token_ids: every new token, those of a stop string and the end of text included.
        prompt_tokens: number of tokens of the prompt.
        finish_reason: "stop" (a stop string or truncation rule), "stop_id", "end_of_text", "length"
            (`max_new_tokens`), "context" (full) or "deadline".
        prefill_ms: time to the batch's first token.
        decode_ms: time from the batch's first token to this row's last.
        logprobs: of each new token in the model's own distribution; None unless `top_logprobs` was given.
        top_logprobs: for each new token the likeliest ids with theirs.
        drafted_tokens: guesses that were fed, of the whole batch; 0 without a draft.
        accepted_tokens: those of them that stood.
        score: of beam search; None otherwise.
        alternatives: the other samples, or the other beams, best first.
    """

    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    finish_reason: FinishReason
    prefill_ms: float
    decode_ms: float
    logprobs: tuple[float, ...] | None = None
    top_logprobs: tuple[TopLogprobs, ...] | None = None
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    score: float | None = None
    alternatives: tuple[Completion, ...] = ()

    @property
    def decode_tokens_per_second(self) -> float:
        """Tokens of this row after its first, over the time they took; 0 when there was one token only."""
        steps = len(self.token_ids) - 1
        return 1000 * steps / self.decode_ms if steps > 0 and self.decode_ms else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEvent:
    """A piece of one row's text.

    Attributes:
        row: index of the prompt.
        sample: which of the prompt's `n` samples.
        text: whole characters; may be empty. A row's pieces join to its completion's text.
        token_id: the token that brought it; None where a deadline passed before the first one.
        finish_reason: set on the row's last event.
        logprob: of the token, where asked for.
        top_logprobs: the likeliest ids with theirs, where asked for.
        seconds: since the generation began.
    """

    row: int
    sample: int = 0
    text: str
    token_id: int | None
    finish_reason: FinishReason | None
    logprob: float | None = None
    top_logprobs: TopLogprobs = ()
    seconds: float = 0.0


class _Row:
    """What one row has brought so far."""

    def __init__(self, assembler: TextAssembler) -> None:
        self.assembler = assembler
        self.text = ""
        self.token_ids: list[int] = []
        self.logprobs: list[float] = []
        self.top_logprobs: list[TopLogprobs] = []
        self.reason: FinishReason | None = None
        self.ended_at = 0.0


class Collector:
    """Runs a loop, adds text to its events, and keeps what completions need.

    Args:
        loop: not run yet.
        prompt_lengths: tokens of each prompt.
        params: of the loop.
        tokenizer: of the model.
        eos_token_id: brings no text.
        speculator: of the loop, if it has one.
    """

    def __init__(
        self,
        loop: GenerationLoop,
        prompt_lengths: Sequence[int],
        params: GenerationParams,
        tokenizer: Tokenizer,
        eos_token_id: int,
        speculator: Speculator | None = None,
    ) -> None:
        self._loop = loop
        self._speculator = speculator
        self._params = params
        self._silent_ids = {eos_token_id, *params.stop_ids}
        self._prompt_tokens = list(prompt_lengths)
        self._rows = [
            _Row(TextAssembler.for_params(tokenizer, params)) for _ in prompt_lengths for _ in range(params.n)
        ]
        self._started_at = self._first_token_at = 0.0

    def events(self) -> Iterator[TextEvent]:
        """Run the loop."""
        self._started_at = time.perf_counter()
        for token in self._loop:
            now = time.perf_counter()
            self._first_token_at = self._first_token_at or now
            self._rows[token.row].ended_at = now
            yield self._add(token)

    def token_ids(self, row: int) -> list[int]:
        """What a row has got so far."""
        return self._rows[row].token_ids

    def completions(self) -> list[Completion]:
        """One a prompt, its other samples as alternatives.

        Raises:
            InvalidInputError: the loop still runs.
        """
        if any(row.reason is None for row in self._rows):
            raise InvalidInputError("the stream has not ended; iterate it to its end first")
        size = self._params.n
        samples = [self._completion(number) for number in range(len(self._rows))]
        return [
            replace(samples[start], alternatives=tuple(samples[start + 1 : start + size]))
            for start in range(0, len(samples), size)
        ]

    def _completion(self, number: int) -> Completion:
        row = self._rows[number]
        assert row.reason is not None
        has_logprobs = self._params.top_logprobs is not None
        return Completion(
            text=row.text,
            token_ids=tuple(row.token_ids),
            prompt_tokens=self._prompt_tokens[number // self._params.n],
            finish_reason=row.reason,
            prefill_ms=1000 * (self._first_token_at - self._started_at),
            decode_ms=1000 * (row.ended_at - self._first_token_at),
            logprobs=tuple(row.logprobs) if has_logprobs else None,
            top_logprobs=tuple(row.top_logprobs) if has_logprobs else None,
            drafted_tokens=self._speculator.num_drafted if self._speculator else 0,
            accepted_tokens=self._speculator.num_accepted if self._speculator else 0,
        )

    def _add(self, token: TokenEvent) -> TextEvent:
        row, reason, piece = self._rows[token.row], token.finish_reason, ""
        if token.token_id is not None:
            row.token_ids.append(token.token_id)
            piece = "" if token.token_id in self._silent_ids else row.assembler.add(token.token_id)
            if token.logprob is not None:
                row.logprobs.append(token.logprob)
                row.top_logprobs.append(token.top_logprobs)
        if reason is not None and not row.assembler.is_stopped:
            piece += row.assembler.finish()
        if row.assembler.is_stopped:
            reason = "stop"
            self._loop.finish(token.row)
        row.reason = reason
        row.text += piece
        return TextEvent(
            row=token.row // self._params.n,
            sample=token.row % self._params.n,
            text=piece,
            token_id=token.token_id,
            finish_reason=reason,
            logprob=token.logprob,
            top_logprobs=token.top_logprobs,
            seconds=token.seconds,
        )


def completion_of_beams(
    beams: Sequence[Beam], prompt_tokens: int, tokenizer: Tokenizer, silent_ids: set[int], milliseconds: float
) -> Completion:
    """The best beam, the others as alternatives."""
    first, *others = (
        Completion(
            text=tokenizer.decode([token_id for token_id in beam.token_ids if token_id not in silent_ids]),
            token_ids=beam.token_ids,
            prompt_tokens=prompt_tokens,
            finish_reason=beam.finish_reason,
            prefill_ms=0.0,
            decode_ms=milliseconds,
            score=beam.score,
        )
        for beam in beams
    )
    return replace(first, alternatives=tuple(others))
