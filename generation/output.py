"""What a generation gives: events while it runs, completions at its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from codegen_edge.errors import InvalidInputError
from codegen_edge.generation.beams import Beam
from codegen_edge.generation.loop import GenerationLoop
from codegen_edge.generation.params import FinishReason, GenerationParams
from codegen_edge.generation.row import TokenEvent
from codegen_edge.generation.speculation import Speculator
from codegen_edge.generation.text import TextAssembler
from codegen_edge.tokenizer import Tokenizer

TopLogprobs = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What was generated for one prompt.

    Attributes:
        text: the new text, without the prompt; cut before a stop string.
        token_ids: every new token, those of a stop string and the end of text included.
        prompt_tokens: number of tokens of the prompt.
        finish_reason: "stop" (a stop string, a truncation rule or a constraint's whole text), "stop_id",
            "end_of_text", "length" (`max_new_tokens`), "context" (full), "deadline" or "cancelled".
        prefill_ms: time from the start of the prefill to the row's first token.
        decode_ms: time from its first token to its last.
        logprobs: of each new token in the model's own distribution; None unless `top_logprobs` was given.
        top_logprobs: for each new token the likeliest ids with theirs.
        drafted_tokens: drafted tokens that were fed, of the whole batch; 0 without a draft.
        accepted_tokens: those of them that were accepted.
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
        token_id: the token that brought it; None where the row ended without one.
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


class RowOutput:
    """What one row brings, from its token events: text, stop strings, log probabilities, why it ended.

    The events may come from a GenerationLoop or a RunningBatch. Where a stop string or a truncation rule ends the text,
    `is_stopped` is set, and the caller ends the row with `finish`.

    Args:
        tokenizer: of the model.
        params: of the row's request.
        eos_token_id: of the model; it brings no text.
        prompt_tokens: tokens of the prompt.
        row: index of the prompt, for the events.
        sample: which of the prompt's samples.

    Attributes:
        text: so far.
        token_ids: so far, those that bring no text included.
        finish_reason: None while the row goes on.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        params: GenerationParams,
        eos_token_id: int,
        prompt_tokens: int,
        *,
        row: int = 0,
        sample: int = 0,
    ) -> None:
        self.text = ""
        self.token_ids: list[int] = []
        self.finish_reason: FinishReason | None = None
        self._assembler = TextAssembler.for_params(tokenizer, params)
        self._silent_ids = {eos_token_id, *params.stop_ids}
        self._prompt_tokens = prompt_tokens
        self._row, self._sample = row, sample
        self._logprobs: list[float] | None = None if params.top_logprobs is None else []
        self._top_logprobs: list[TopLogprobs] = []
        self._first_seconds: float | None = None
        self._last_seconds = 0.0

    @property
    def is_stopped(self) -> bool:
        """Whether the text ended by its content."""
        return self._assembler.is_stopped

    def add(self, event: TokenEvent) -> TextEvent:
        """Take the row's next event; the text that became certain with it, often empty."""
        reason, piece = event.finish_reason, ""
        self._first_seconds = event.seconds if self._first_seconds is None else self._first_seconds
        self._last_seconds = event.seconds
        if event.token_id is not None:
            self.token_ids.append(event.token_id)
            piece = "" if event.token_id in self._silent_ids else self._assembler.add(event.token_id)
            if self._logprobs is not None and event.logprob is not None:
                self._logprobs.append(event.logprob)
                self._top_logprobs.append(event.top_logprobs)
        if reason is not None and not self.is_stopped:
            piece += self._assembler.finish()
        self.finish_reason = "stop" if self.is_stopped else reason
        self.text += piece
        return TextEvent(
            row=self._row,
            sample=self._sample,
            text=piece,
            token_id=event.token_id,
            finish_reason=self.finish_reason,
            logprob=event.logprob,
            top_logprobs=event.top_logprobs,
            seconds=event.seconds,
        )

    def completion(self, speculator: Speculator | None = None) -> Completion:
        """The whole; raise InvalidInputError where the row goes on."""
        if self.finish_reason is None:
            raise InvalidInputError("the stream has not ended; iterate it to its end first")
        first = self._first_seconds or 0.0
        return Completion(
            text=self.text,
            token_ids=tuple(self.token_ids),
            prompt_tokens=self._prompt_tokens,
            finish_reason=self.finish_reason,
            prefill_ms=1000 * first,
            decode_ms=1000 * (self._last_seconds - first),
            logprobs=None if self._logprobs is None else tuple(self._logprobs),
            top_logprobs=None if self._logprobs is None else tuple(self._top_logprobs),
            drafted_tokens=speculator.num_drafted if speculator else 0,
            accepted_tokens=speculator.num_accepted if speculator else 0,
        )


class Collector:
    """Runs a loop and keeps the output of its rows.

    Args:
        loop: not run yet.
        tokenizer: of the model.
        eos_token_id: of the model.
        speculator: of the loop, if it has one.
    """

    def __init__(
        self, loop: GenerationLoop, tokenizer: Tokenizer, eos_token_id: int, speculator: Speculator | None = None
    ) -> None:
        self._loop = loop
        self._speculator = speculator
        self._num_samples = loop.request.params.n
        self.outputs = [
            RowOutput(tokenizer, loop.request.params, eos_token_id, prompt_tokens, row=row, sample=sample)
            for row, prompt_tokens in enumerate(loop.request.prompt_lengths)
            for sample in range(self._num_samples)
        ]

    def events(self) -> Iterator[TextEvent]:
        """Run the loop."""
        for token in self._loop:
            output = self.outputs[token.row]
            event = output.add(token)
            if output.is_stopped:
                self._loop.finish(token.row)
            yield event

    def completions(self) -> list[Completion]:
        """One for each prompt, its other samples as alternatives.

        Raises:
            InvalidInputError: the loop still runs.
        """
        samples = [output.completion(self._speculator) for output in self.outputs]
        size = self._num_samples
        return [
            replace(samples[start], alternatives=tuple(samples[start + 1 : start + size]))
            for start in range(0, len(samples), size)
        ]


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
