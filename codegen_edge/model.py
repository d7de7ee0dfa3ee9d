"""A loaded bundle that generates: `load_model("bundle").generate("def f():").text`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, overload

from codegen_edge.bundle import Bundle, Check, open_bundle
from codegen_edge.errors import InvalidInputError
from codegen_edge.runtimes import Runtime, open_runtime
from codegen_edge.runtimes.generation import (
    CancelToken,
    FinishReason,
    GenerationLoop,
    GenerationParams,
    TextAssembler,
    TokenEvent,
)
from codegen_edge.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What was generated for one prompt.

    Attributes:
        text: the new text, without the prompt; cut before a stop string.
        token_ids: every new token, those of a stop string and the end of text included.
        prompt_tokens: number of tokens of the prompt.
        finish_reason: "stop" (a stop string), "end_of_text", "length" (`max_new_tokens`) or "context" (full).
        prefill_ms: time to the batch's first token.
        decode_ms: time from the batch's first token to this row's last.
    """

    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    finish_reason: FinishReason
    prefill_ms: float
    decode_ms: float

    @property
    def decode_tokens_per_second(self) -> float:
        """Tokens of this row after its first, over the time they took; 0 when there was one token only."""
        steps = len(self.token_ids) - 1
        return 1000 * steps / self.decode_ms if steps and self.decode_ms else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEvent:
    """A piece of one row's text.

    Attributes:
        row: index of the prompt.
        text: whole characters; may be empty. A row's pieces join to its completion's text.
        token_id: the token that brought it.
        finish_reason: set on the row's last event.
    """

    row: int
    text: str
    token_id: int
    finish_reason: FinishReason | None


class Model:
    """A bundle, its tokenizer and a runtime. Use it as a context manager, or call `close`."""

    def __init__(self, bundle: Bundle, runtime: Runtime, tokenizer: Tokenizer) -> None:
        self.bundle = bundle
        self.runtime = runtime
        self.tokenizer = tokenizer

    @overload
    def generate(self, prompt: str, *, cancel: CancelToken | None = None, **params: Any) -> Completion: ...

    @overload
    def generate(
        self, prompt: Sequence[str], *, cancel: CancelToken | None = None, **params: Any
    ) -> list[Completion]: ...

    def generate(
        self, prompt: str | Sequence[str], *, cancel: CancelToken | None = None, **params: Any
    ) -> Completion | list[Completion]:
        """Generate after one prompt, or after a batch of them.

        Args:
            prompt: a text, or several; each row of a batch gets what it would get alone.
            cancel: stops the generation from another thread.
            **params: the fields of `GenerationParams`: max_new_tokens, temperature, top_k, top_p, seed, stop.

        Returns:
            One Completion for one prompt, a list for several.

        Raises:
            InvalidInputError: an empty prompt or a parameter out of range.
            ContextLengthError: a prompt does not fit the context.
            NumericsError: the logits are not finite.
            CancelledError: `cancel` was cancelled.
        """
        collector = _Collector(self, _as_batch(prompt), GenerationParams(**params), cancel)
        for _ in collector.events():
            pass
        completions = collector.completions()
        return completions[0] if isinstance(prompt, str) else completions

    def stream(
        self, prompt: str | Sequence[str], *, cancel: CancelToken | None = None, **params: Any
    ) -> GenerationStream:
        """Generate piece by piece; takes what `generate` takes. Bad input is refused before the first piece."""
        return GenerationStream(_Collector(self, _as_batch(prompt), GenerationParams(**params), cancel))

    def close(self) -> None:
        """Free the runtime."""
        self.runtime.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class GenerationStream:
    """Iterate it for TextEvents; afterwards `completions` holds the results."""

    def __init__(self, collector: _Collector) -> None:
        self._collector = collector
        self._events = collector.events()

    def __iter__(self) -> Iterator[TextEvent]:
        return self._events

    @property
    def completions(self) -> list[Completion]:
        """One Completion a prompt; raise InvalidInputError while the stream still runs."""
        return self._collector.completions()


class _Collector:
    """Runs the loop, adds text and timings to its events, and keeps what `Completion` needs."""

    def __init__(self, model: Model, prompts: list[str], params: GenerationParams, cancel: CancelToken | None) -> None:
        token_ids = [model.tokenizer.encode(prompt) for prompt in prompts]
        self._loop = GenerationLoop(
            model.runtime,
            token_ids,
            params,
            num_allowed_ids=model.tokenizer.vocab_size,
            cancel=cancel,
        )
        self._eos_token_id = model.runtime.config.eos_token_id
        self._prompt_tokens = [len(row) for row in token_ids]
        self._assemblers = [TextAssembler(model.tokenizer, params.stop) for _ in prompts]
        self._texts = [""] * len(prompts)
        self._token_ids: list[list[int]] = [[] for _ in prompts]
        self._reasons: dict[int, FinishReason] = {}
        self._ended_at = [0.0] * len(prompts)
        self._started_at = self._first_token_at = 0.0

    def events(self) -> Iterator[TextEvent]:
        self._started_at = time.perf_counter()
        for token in self._loop:
            now = time.perf_counter()
            self._first_token_at = self._first_token_at or now
            self._ended_at[token.row] = now
            yield self._add(token)

    def completions(self) -> list[Completion]:
        if len(self._reasons) < len(self._texts):
            raise InvalidInputError("the stream has not ended; iterate it to its end first")
        return [
            Completion(
                text=self._texts[row],
                token_ids=tuple(self._token_ids[row]),
                prompt_tokens=self._prompt_tokens[row],
                finish_reason=self._reasons[row],
                prefill_ms=1000 * (self._first_token_at - self._started_at),
                decode_ms=1000 * (self._ended_at[row] - self._first_token_at),
            )
            for row in range(len(self._texts))
        ]

    def _add(self, token: TokenEvent) -> TextEvent:
        assembler, reason = self._assemblers[token.row], token.finish_reason
        self._token_ids[token.row].append(token.token_id)
        piece = "" if token.token_id == self._eos_token_id else assembler.add(token.token_id)
        if reason is not None and not assembler.is_stopped:
            piece += assembler.finish()
        if assembler.is_stopped:
            reason = "stop"
            self._loop.finish(token.row)
        if reason is not None:
            self._reasons[token.row] = reason
        self._texts[token.row] += piece
        return TextEvent(row=token.row, text=piece, token_id=token.token_id, finish_reason=reason)


def _as_batch(prompt: str | Sequence[str]) -> list[str]:
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list | tuple) or not all(isinstance(text, str) for text in prompts):
        raise InvalidInputError(f"a prompt must be a text, or a list or tuple of texts, got {type(prompt).__name__}")
    return list(prompts)


def load_model(path: str | Path, *, runtime: str = "cpu", threads: int | None = None, check: Check = "full") -> Model:
    """Open a bundle for generation.

    Args:
        path: a folder written by `codegen-edge export`.
        runtime: "cpu"; the runtime that is named is used, or an error is raised.
        threads: CPU threads; None takes all that this process may use.
        check: "full" compares every file's sha256 first, "size" the sizes only (a faster start).

    Raises:
        BundleError: the folder is no bundle for text generation.
        IntegrityError: a file is missing, truncated or altered.
        RuntimeUnavailableError: the runtime cannot be had here.
    """
    bundle = open_bundle(path, check=check)
    bundle.require_task("text-generation")
    tokenizer = Tokenizer(bundle.tokenizer_path)
    return Model(bundle, open_runtime(runtime, bundle, threads=threads), tokenizer)
