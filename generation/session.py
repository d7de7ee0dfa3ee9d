"""A text that grows turn by turn: what is computed once stays in its KV cache."""

from __future__ import annotations

import codecs
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from codegen_edge.errors import BundleError, ContextLengthError, InvalidInputError
from codegen_edge.generation.cancel import CancelToken
from codegen_edge.generation.loop import GenerationLoop
from codegen_edge.generation.output import Collector, Completion, TextEvent
from codegen_edge.generation.params import GenerationParams, merged
from codegen_edge.generation.prefill import OnPrefill
from codegen_edge.generation.prompt_text import least_tokens
from codegen_edge.generation.request import Request
from codegen_edge.generation.session_file import SavedSession, read_session, write_session
from codegen_edge.generation.speculation import Draft, Drafter, Speculator, common_length, free_drafts, open_drafter
from codegen_edge.runtimes.runtime import Runtime
from codegen_edge.tokenizer import Tokenizer


class Session:
    """One text of one model, for multi-turn synthesis: append, generate, append again. From `Model.session`.

    A session is used by one thread at a time; sessions of a model may take turns.

    Args:
        runtime: computes.
        tokenizer: of the model.
        fingerprint: of the model, which a saved session names.
    """

    def __init__(self, runtime: Runtime, tokenizer: Tokenizer, *, fingerprint: str) -> None:
        self._runtime = runtime
        self._tokenizer = tokenizer
        self._fingerprint = fingerprint
        self._ids: list[int] = []
        self._cache = runtime.new_cache(1, runtime.config.context_length)
        self._cached: list[int] = []  # the tokens whose keys and values the cache has
        self._is_running = False
        self._drafter: tuple[Draft, Drafter] | None = None  # a draft model keeps a cache of its own

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The text's tokens."""
        return tuple(self._ids)

    @property
    def text(self) -> str:
        """The text so far, given and generated."""
        return self._tokenizer.decode(self._ids)

    @property
    def num_tokens(self) -> int:
        """Length of the text: a mark to rewind to."""
        return len(self._ids)

    def append(self, text: str) -> None:
        """Add a text; it is tokenized by itself, and read with the next generation.

        Raises:
            InvalidInputError: it is no text, or no valid Unicode; a stream of the session still runs.
            ContextLengthError: it is too long for any context of the model, and was not read.
        """
        self._require_idle()
        if not isinstance(text, str):
            raise InvalidInputError(f"text must be a string, got {type(text).__name__}")
        least, context_length = least_tokens(text, self._tokenizer), self._runtime.config.context_length
        if least > context_length:
            raise ContextLengthError(
                f"the text has {len(text):,} characters and at least {least:,} tokens; the model's context holds "
                f"{context_length}: append less of it"
            )
        self._ids += self._tokenizer.encode(text)

    def rewind(self, num_tokens: int) -> None:
        """Forget the text beyond its first tokens; raise InvalidInputError where it has fewer."""
        self._require_idle()
        if not isinstance(num_tokens, int) or isinstance(num_tokens, bool):
            raise InvalidInputError(f"num_tokens must be an integer, got {num_tokens!r}")
        if not 0 <= num_tokens <= len(self._ids):
            raise InvalidInputError(f"the session has {len(self._ids)} tokens, it cannot be rewound to {num_tokens}")
        del self._ids[num_tokens:]

    def fork(self) -> Session:
        """A session that goes on from here by itself."""
        self._require_idle()
        other = Session(self._runtime, self._tokenizer, fingerprint=self._fingerprint)
        other._ids = list(self._ids)
        if self._cached:
            other._cache.write_row(0, self._cache.read_row(0))
            other._cached = list(self._cached)
        return other

    def generate(
        self,
        params: GenerationParams | None = None,
        *,
        draft: Draft | None = None,
        cancel: CancelToken | None = None,
        on_prefill: OnPrefill | None = None,
        **fields: Any,
    ) -> Completion:
        """Continue the text; the new text becomes part of it, cut as the completion is.

        Takes what `Model.generate` takes, but for `n` and beams; raises what it raises, and the session keeps the
        text that it had.
        """
        events = self._run(self._request(merged(params, fields)), self._drafter_of(draft), cancel, on_prefill)
        while True:
            try:
                next(events)
            except StopIteration as end:
                completion: Completion = end.value
                return completion

    def stream(
        self,
        params: GenerationParams | None = None,
        *,
        draft: Draft | None = None,
        cancel: CancelToken | None = None,
        on_prefill: OnPrefill | None = None,
        **fields: Any,
    ) -> Iterator[TextEvent]:
        """`generate` piece by piece. The text is extended at the end; left early, it stays as it was.

        While it runs nothing else can be done with the session: InvalidInputError.
        """
        return self._run(self._request(merged(params, fields)), self._drafter_of(draft), cancel, on_prefill)

    def save(self, path: str | Path) -> None:
        """Write text and KV cache to a file, in one step.

        Raises:
            StorageError: the file cannot be written; one that was there is intact.
        """
        self._require_idle()
        write_session(
            Path(path),
            SavedSession(
                model=self._fingerprint,
                token_ids=self._ids,
                held=self._cached,
                tensors=self._cache.read_row(0) if self._cached else {},
            ),
        )

    @classmethod
    def load(cls, path: Path, runtime: Runtime, tokenizer: Tokenizer, *, fingerprint: str) -> Session:
        """A session that `save` wrote.

        Raises:
            BundleError: the file is no session, was altered, or is larger than any of this model.
            IntegrityError: it was written with another model, whose keys and values mean nothing to this one.
        """
        saved = read_session(path, runtime.config, fingerprint)
        session = cls(runtime, tokenizer, fingerprint=fingerprint)
        session._ids, session._cached = saved.token_ids, saved.held
        try:
            if saved.held:
                session._cache.write_row(0, saved.tensors)
        except InvalidInputError as exc:
            raise BundleError(f"{path} is damaged: {exc}") from exc
        if int(session._cache.lengths[0]) != len(saved.held):
            raise BundleError(f"{path} is damaged: its keys and values are not those of its tokens")
        return session

    def _request(self, params: GenerationParams) -> Request:
        """The text so far as a request that is checked."""
        self._require_idle()
        if params.n > 1 or params.num_beams > 1:
            raise InvalidInputError("a session has one text: n and num_beams must be 1; fork it for several")
        if not self._ids:
            raise InvalidInputError("the session is empty; append a text first")
        return Request.of([self._ids], params, self._runtime.config, self._tokenizer.vocab_size)

    def _drafter_of(self, draft: Draft | None) -> Drafter | None:
        if draft is None:
            return None
        if self._drafter is None or self._drafter[0] is not draft:
            drafter = open_drafter(draft, self._tokenizer)
            assert drafter is not None
            self._drafter = (draft, drafter)
        return self._drafter[1]

    def _require_idle(self) -> None:
        if self._is_running:
            raise InvalidInputError("a stream of this session still runs: iterate it to its end or close it first")

    def _run(
        self,
        request: Request,
        drafter: Drafter | None,
        cancel: CancelToken | None,
        on_prefill: OnPrefill | None,
    ) -> Generator[TextEvent, None, Completion]:
        self._require_idle()
        runtime = self._runtime
        ids = list(request.prompts[0])
        speculator = None if drafter is None else Speculator(drafter, num_free=free_drafts(runtime))
        # The last token is always fed: the logits after it are wanted.
        common = min(common_length(self._cached, ids), len(ids) - 1)
        self._cache.rewind(0, common)
        del self._cached[common:]
        loop = GenerationLoop(
            runtime, request, cancel=cancel, speculator=speculator, cache=self._cache, on_prefill=on_prefill
        )
        eos_token_id = runtime.config.eos_token_id
        collector = Collector(loop, self._tokenizer, eos_token_id, speculator)
        self._is_running = True
        try:
            yield from collector.events()
            completion = collector.completions()[0]
            self._ids += self._kept(completion, {eos_token_id, *request.params.stop_ids})
            return completion
        finally:
            self._is_running = False
            self._cached = (ids + collector.outputs[0].token_ids)[: int(self._cache.lengths[0])]
            # Left early, the cache may hold drafted tokens that were not given out yet.
            self._cache.rewind(0, len(self._cached))
            if cancel is not None and cancel.is_cancelled:
                # An interruption that came between two steps would stop the first step of the next generation.
                interrupted, self._cache = self._cache, runtime.new_cache(1, self._cache.capacity)
                if self._cached:
                    self._cache.write_row(0, interrupted.read_row(0))

    def _kept(self, completion: Completion, silent_ids: set[int]) -> list[int]:
        """The tokens of the completion's text: all, or where it was cut those before, and the rest tokenized anew."""
        token_ids = [token_id for token_id in completion.token_ids if token_id not in silent_ids]
        if completion.finish_reason != "stop":
            return token_ids
        tokenizer, text = self._tokenizer, completion.text
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        read, num_kept, num_read = "", 0, 0
        for number, token_id in enumerate(token_ids, start=1):
            read += decoder.decode(tokenizer.token_bytes(token_id))
            if not text.startswith(read):
                break
            if not decoder.getstate()[0]:  # no character is begun
                num_kept, num_read = number, len(read)
        rest = text[num_read:]
        return token_ids[:num_kept] + (tokenizer.encode(rest) if rest else [])
