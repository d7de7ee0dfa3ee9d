"""A loaded bundle that generates: `load_model("bundle").generate("def f():").text`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

from codegen_edge.bundle import TOKENIZER_FILE, Bundle, Check, open_ahead
from codegen_edge.errors import CodegenEdgeError, IntegrityError, InvalidInputError
from codegen_edge.generation.beams import beam_search
from codegen_edge.generation.cancel import CancelToken
from codegen_edge.generation.editing import suffix_stops
from codegen_edge.generation.loop import GenerationLoop
from codegen_edge.generation.model_input import Batch, Prompts, as_batch, is_single
from codegen_edge.generation.output import Collector, Completion, TextEvent, completion_of_beams
from codegen_edge.generation.params import GenerationParams, merged
from codegen_edge.generation.prefill import OnPrefill
from codegen_edge.generation.prompt_text import encode_prompts
from codegen_edge.generation.request import Request
from codegen_edge.generation.session import Session
from codegen_edge.generation.speculation import Draft, Speculator, free_drafts, open_drafter
from codegen_edge.runtimes import Runtime, open_runtime
from codegen_edge.tokenizer import Tokenizer

if TYPE_CHECKING:
    from codegen_edge.generation.asynchronous import AsyncEvents

__all__ = ["Completion", "Draft", "GenerationStream", "Model", "TextEvent", "load_model"]

_MOST_TRIES = 10  # of a load while writers replace the bundle


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
        params: GenerationParams | None = None,
        *,
        suffix: str | None = None,
        draft: Draft | None = None,
        cancel: CancelToken | None = None,
        on_prefill: OnPrefill | None = None,
        **fields: Any,
    ) -> Completion: ...

    @overload
    def generate(
        self,
        prompt: Sequence[str] | Sequence[Sequence[int]],
        params: GenerationParams | None = None,
        *,
        suffix: str | None = None,
        draft: Draft | None = None,
        cancel: CancelToken | None = None,
        on_prefill: OnPrefill | None = None,
        **fields: Any,
    ) -> list[Completion]: ...

    @overload
    def generate(
        self,
        prompt: Sequence[int],
        params: GenerationParams | None = None,
        *,
        suffix: str | None = None,
        draft: Draft | None = None,
        cancel: CancelToken | None = None,
        on_prefill: OnPrefill | None = None,
        **fields: Any,
    ) -> Completion: ...

    def generate(
        self,
        prompt: Prompts,
        params: GenerationParams | None = None,
        *,
        suffix: str | None = None,
        draft: Draft | None = None,
        cancel: CancelToken | None = None,
        on_prefill: OnPrefill | None = None,
        **fields: Any,
    ) -> Completion | list[Completion]:
        """Generate after one prompt, or after a batch of them.

        Args:
            prompt: a text or its token ids, or several of them; each row of a batch gets what it would get alone.
            params: how to choose tokens and when to stop; None takes the defaults.
            suffix: a text that follows what is generated; the new text is cut where it meets it. The model does not
                see it: CodeGen was not trained to fill in.
            draft: drafts tokens to save steps, and changes none: "prompt-lookup", or a smaller model with the same
                tokenizer. For a row that is alone; on a runtime that runs rows of any lengths together (cpu with exact
                steps) "prompt-lookup" is for every row of a batch.
            cancel: stops the generation from another thread.
            on_prefill: called with the prompt tokens that are read, and those to read.
            **fields: fields of `GenerationParams` that differ from `params`: max_new_tokens, temperature, stop, …

        Returns:
            One Completion for one prompt, a list for several.

        Raises:
            InvalidInputError: an empty prompt or a parameter out of range.
            ContextLengthError: a prompt does not fit the context.
            NumericsError: the logits are not finite.
            CancelledError: `cancel` was cancelled.
        """
        prompts, settings = as_batch(prompt), _with_suffix(merged(params, fields), suffix)
        if settings.num_beams > 1:
            if draft is not None:
                raise InvalidInputError("draft does not go with beam search: all its beams are fed in one step")
            request = self._request(prompts, settings)
            completions = [self._search_beams(each, cancel, on_prefill) for each in request.split()]
        else:
            collector = self._collector(self._request(prompts, settings), draft, cancel, on_prefill)
            for _ in collector.events():
                pass
            completions = collector.completions()
        return completions[0] if is_single(prompt) else completions

    def stream(
        self,
        prompt: Prompts,
        params: GenerationParams | None = None,
        *,
        suffix: str | None = None,
        draft: Draft | None = None,
        cancel: CancelToken | None = None,
        on_prefill: OnPrefill | None = None,
        **fields: Any,
    ) -> GenerationStream:
        """Generate piece by piece; takes what `generate` takes, but for beam search.

        Bad input is refused before the first piece.
        """
        settings = _with_suffix(merged(params, fields), suffix)
        if settings.num_beams > 1:
            raise InvalidInputError("beam search has no text before its end; use generate")
        return GenerationStream(self._collector(self._request(as_batch(prompt), settings), draft, cancel, on_prefill))

    def astream(
        self,
        prompt: Prompts,
        params: GenerationParams | None = None,
        *,
        cancel: CancelToken | None = None,
        **options: Any,
    ) -> AsyncEvents[TextEvent]:
        """`stream` for asyncio: each step runs in a thread when its event is asked for.

        A cancelled task, `aclose` and the end of an `async with` stop the step in flight; `cancel` stays as it was.
        """
        from codegen_edge.generation.asynchronous import AsyncEvents  # asyncio takes a tenth of a second of a start

        return AsyncEvents(lambda token: iter(self.stream(prompt, params, cancel=token, **options)), cancel)

    def session(self) -> Session:
        """An empty text that is continued turn by turn, without computing anything twice."""
        return Session(self.runtime, self.tokenizer, fingerprint=self.bundle.fingerprint)

    def load_session(self, path: str | Path) -> Session:
        """A session that `Session.save` wrote with this model; raise IntegrityError for another model's."""
        return Session.load(Path(path), self.runtime, self.tokenizer, fingerprint=self.bundle.fingerprint)

    def _request(self, prompts: Batch, params: GenerationParams) -> Request:
        token_ids = prompts.token_ids
        if token_ids is None:
            token_ids = encode_prompts(prompts.texts, self.tokenizer, params, self.runtime.config)
        return Request.of(token_ids, params, self.runtime.config, self.tokenizer.vocab_size)

    def _collector(
        self, request: Request, draft: Draft | None, cancel: CancelToken | None, on_prefill: OnPrefill | None
    ) -> Collector:
        drafter = open_drafter(draft, self.tokenizer)
        speculator = None if drafter is None else Speculator(drafter, num_free=free_drafts(self.runtime))
        loop = GenerationLoop(self.runtime, request, cancel=cancel, speculator=speculator, on_prefill=on_prefill)
        return Collector(loop, self.tokenizer, self.runtime.config.eos_token_id, speculator)

    def _search_beams(self, request: Request, cancel: CancelToken | None, on_prefill: OnPrefill | None) -> Completion:
        started_at = time.perf_counter()
        beams = beam_search(self.runtime, request, cancel=cancel, on_prefill=on_prefill)
        silent_ids = {self.runtime.config.eos_token_id, *request.params.stop_ids}
        milliseconds = 1000 * (time.perf_counter() - started_at)
        return completion_of_beams(beams, request.prompt_lengths[0], self.tokenizer, silent_ids, milliseconds)

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
        return self

    def __next__(self) -> TextEvent:
        return next(self._events)

    @property
    def completions(self) -> list[Completion]:
        """One Completion a prompt; raise InvalidInputError while the stream still runs."""
        return self._collector.completions()


def _with_suffix(params: GenerationParams, suffix: str | None) -> GenerationParams:
    if suffix is None:
        return params
    if params.constraint is not None:
        raise InvalidInputError("suffix does not go with a constraint: it may cut the text before it is whole")
    return replace(params, stop=(*params.stop, *suffix_stops(suffix)))


def load_model(path: str | Path, *, runtime: str = "cpu", check: Check = "full", **options: Any) -> Model:
    """Open a bundle for generation.

    Args:
        path: a folder written by `codegen-edge export`, `quantize` or `build`.
        runtime: "cpu", "cuda", "tensorrt", "static-cpu"; the one that is named is used, or an error is raised.
        check: "full" compares every file's sha256 first, "size" the sizes only (a faster start).
        **options: of the runtime, for example `threads` and `exact_steps` of cpu, or `device_id` of cuda; see
            `open_runtime`.

    Raises:
        InvalidInputError: `path` is no path, or an option is of another runtime, of another type or out of range.
        BundleError: the folder is no bundle for text generation.
        IntegrityError: a file is missing, truncated or altered.
        RuntimeUnavailableError: the runtime cannot be had here.
    """
    if not isinstance(path, str | os.PathLike):
        raise InvalidInputError(f"path must be the path of a bundle's folder, got {type(path).__name__}")
    for left in reversed(range(_MOST_TRIES)):
        bundle, wait_for_weights = open_ahead(path, check=check)
        try:
            return _loaded(bundle, runtime, options, wait_for_weights)
        except IntegrityError:
            # A writer put another bundle in its place and removed this one: that one is what is wanted now.
            if not left or not bundle.is_moved:
                raise
    raise AssertionError("the last try returns or raises")


def _loaded(bundle: Bundle, runtime: str, options: dict[str, Any], wait_for_weights: Callable[[], None]) -> Model:
    """A model whose weights were compared while the runtime read them."""
    with ExitStack() as opened:
        try:
            bundle.require_task("text-generation")
            with bundle.reading():
                tokenizer = Tokenizer(bundle.at(TOKENIZER_FILE))
            model = Model(bundle, open_runtime(runtime, bundle, **options), tokenizer)
            opened.callback(model.close)
        except CodegenEdgeError:
            wait_for_weights()  # where the runtime refused them, they may have been altered
            raise
        wait_for_weights()
        opened.pop_all()
        return model
