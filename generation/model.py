"""A loaded bundle that generates: `load_model("bundle").generate("def f():").text`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias, overload

from codegen_edge.bundle import Bundle, Check, open_bundle
from codegen_edge.errors import InvalidInputError
from codegen_edge.generation import CancelToken, GenerationLoop, GenerationParams
from codegen_edge.generation.asynchronous import AsyncEvents
from codegen_edge.generation.beams import beam_search
from codegen_edge.generation.completion import Collector, Completion, TextEvent, completion_of_beams
from codegen_edge.generation.editing import suffix_stops
from codegen_edge.generation.prefill import OnPrefill, check_request
from codegen_edge.generation.session import Session
from codegen_edge.generation.speculation import Drafter, DraftModel, PromptLookup, Speculator
from codegen_edge.runtimes import Runtime, open_runtime
from codegen_edge.tokenizer import Tokenizer

__all__ = ["Completion", "Draft", "GenerationStream", "Model", "TextEvent", "load_model"]

Draft: TypeAlias = "Literal['prompt-lookup'] | Model"


class Model:
    """A bundle, its tokenizer and a runtime. Use it as a context manager, or call `close`."""

    def __init__(self, bundle: Bundle, runtime: Runtime, tokenizer: Tokenizer) -> None:
        self.bundle = bundle
        self.runtime = runtime
        self.tokenizer = tokenizer

    @overload
    def generate(
        self,
        prompt: str,
        *,
        suffix: str | None = None,
        draft: Draft | None = None,
        cancel: CancelToken | None = None,
        on_prefill: OnPrefill | None = None,
        **params: Any,
    ) -> Completion: ...

    @overload
    def generate(
        self,
        prompt: Sequence[str],
        *,
        suffix: str | None = None,
        draft: Draft | None = None,
        cancel: CancelToken | None = None,
        on_prefill: OnPrefill | None = None,
        **params: Any,
    ) -> list[Completion]: ...

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        suffix: str | None = None,
        draft: Draft | None = None,
        cancel: CancelToken | None = None,
        on_prefill: OnPrefill | None = None,
        **params: Any,
    ) -> Completion | list[Completion]:
        """Generate after one prompt, or after a batch of them.

        Args:
            prompt: a text, or several; each row of a batch gets what it would get alone.
            suffix: a text that follows what is generated; the new text is cut where it meets it. The model does not
                see it: CodeGen was not trained to fill in.
            draft: guesses tokens to save steps, and changes none: "prompt-lookup", or a smaller model with the same
                tokenizer. Only used while one row is left.
            cancel: stops the generation from another thread.
            on_prefill: told of the prompt tokens that are read, and those to read.
            **params: the fields of `GenerationParams`: max_new_tokens, temperature, top_p, seed, stop, n, num_beams, …

        Returns:
            One Completion for one prompt, a list for several.

        Raises:
            InvalidInputError: an empty prompt or a parameter out of range.
            ContextLengthError: a prompt does not fit the context.
            NumericsError: the logits are not finite.
            CancelledError: `cancel` was cancelled.
        """
        prompts, settings = _as_batch(prompt), _with_suffix(GenerationParams(**params), suffix)
        if settings.num_beams > 1:
            if draft is not None:
                raise InvalidInputError("draft does not go with beam search: all its beams are fed in one step")
            token_ids = [self.tokenizer.encode(text) for text in prompts]
            check_request(token_ids, settings, self.runtime.config, self.tokenizer.vocab_size)
            completions = [self._search_beams(ids, settings, cancel, on_prefill) for ids in token_ids]
        else:
            collector = self._collector(prompts, settings, draft, cancel, on_prefill)
            for _ in collector.events():
                pass
            completions = collector.completions()
        return completions[0] if isinstance(prompt, str) else completions

    def stream(
        self,
        prompt: str | Sequence[str],
        *,
        suffix: str | None = None,
        draft: Draft | None = None,
        cancel: CancelToken | None = None,
        on_prefill: OnPrefill | None = None,
        **params: Any,
    ) -> GenerationStream:
        """Generate piece by piece; takes what `generate` takes, but for beam search.

        Bad input is refused before the first piece.
        """
        settings = _with_suffix(GenerationParams(**params), suffix)
        if settings.num_beams > 1:
            raise InvalidInputError("beam search has no text before its end; use generate")
        return GenerationStream(self._collector(_as_batch(prompt), settings, draft, cancel, on_prefill))

    def astream(
        self, prompt: str | Sequence[str], *, cancel: CancelToken | None = None, **options: Any
    ) -> AsyncEvents[TextEvent]:
        """`stream` for asyncio: each step runs in a thread when its event is asked for.

        A cancelled task, `aclose` and the end of an `async with` stop the step in flight; `cancel` stays as it was.
        """
        return AsyncEvents(lambda token: iter(self.stream(prompt, cancel=token, **options)), cancel)

    def session(self) -> Session:
        """An empty text that is continued turn by turn, without computing anything twice."""
        return Session(self)

    def load_session(self, path: str | Path) -> Session:
        """A session that `Session.save` wrote with this model; raise IntegrityError for another model's."""
        return Session.load(self, Path(path))

    def drafter(self, draft: Draft | None) -> Drafter | None:
        """What guesses tokens; raise InvalidInputError where a draft model has another vocabulary."""
        if draft is None:
            return None
        if draft == "prompt-lookup":
            return PromptLookup()
        if not isinstance(draft, Model):
            raise InvalidInputError(f'draft must be "prompt-lookup" or a model, got {draft!r}')
        if draft.tokenizer.fingerprint != self.tokenizer.fingerprint:
            raise InvalidInputError("the draft model has another tokenizer: its guesses would mean other text")
        return DraftModel(draft.runtime)

    def _collector(
        self,
        prompts: list[str],
        params: GenerationParams,
        draft: Draft | None,
        cancel: CancelToken | None,
        on_prefill: OnPrefill | None,
    ) -> Collector:
        token_ids = [self.tokenizer.encode(prompt) for prompt in prompts]
        drafter = self.drafter(draft)
        speculator = None if drafter is None else Speculator(drafter)
        loop = GenerationLoop(
            self.runtime,
            token_ids,
            params,
            num_allowed_ids=self.tokenizer.vocab_size,
            cancel=cancel,
            speculator=speculator,
            on_prefill=on_prefill,
        )
        return Collector(
            loop, loop.prompt_lengths, params, self.tokenizer, self.runtime.config.eos_token_id, speculator
        )

    def _search_beams(
        self, token_ids: list[int], params: GenerationParams, cancel: CancelToken | None, on_prefill: OnPrefill | None
    ) -> Completion:
        started_at = time.perf_counter()
        beams = beam_search(
            self.runtime,
            token_ids,
            params,
            num_allowed_ids=self.tokenizer.vocab_size,
            cancel=cancel,
            on_prefill=on_prefill,
        )
        silent_ids = {self.runtime.config.eos_token_id, *params.stop_ids}
        milliseconds = 1000 * (time.perf_counter() - started_at)
        return completion_of_beams(beams, len(token_ids), self.tokenizer, silent_ids, milliseconds)

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

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._events = collector.events()

    def __iter__(self) -> Iterator[TextEvent]:
        return self._events

    @property
    def completions(self) -> list[Completion]:
        """One Completion a prompt; raise InvalidInputError while the stream still runs."""
        return self._collector.completions()


def _with_suffix(params: GenerationParams, suffix: str | None) -> GenerationParams:
    if suffix is None:
        return params
    return replace(params, stop=(*params.stop, *suffix_stops(suffix)))


def _as_batch(prompt: str | Sequence[str]) -> list[str]:
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list | tuple) or not all(isinstance(text, str) for text in prompts):
        raise InvalidInputError(f"a prompt must be a text, or a list or tuple of texts, got {type(prompt).__name__}")
    return list(prompts)


def load_model(path: str | Path, *, runtime: str = "cpu", check: Check = "full", **options: Any) -> Model:
    """Open a bundle for generation.

    Args:
        path: a folder written by `codegen-edge export`, `quantize` or `build`.
        runtime: "cpu", "cuda", "tensorrt", "static-cpu"; the one that is named is used, or an error is raised.
        check: "full" compares every file's sha256 first, "size" the sizes only (a faster start).
        **options: of the runtime, for example `threads` of cpu or `device_id` of cuda; see `open_runtime`.

    Raises:
        BundleError: the folder is no bundle for text generation.
        IntegrityError: a file is missing, truncated or altered.
        RuntimeUnavailableError: the runtime cannot be had here.
    """
    bundle = open_bundle(path, check=check)
    bundle.require_task("text-generation")
    tokenizer = Tokenizer(bundle.tokenizer_path)
    return Model(bundle, open_runtime(runtime, bundle, **options), tokenizer)
