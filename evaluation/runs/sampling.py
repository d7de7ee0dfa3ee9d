"""Completions for a task's items: prompts side by side in slots, conversations in sessions that keep their KV cache."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from codegen_edge.bundle import Bundle
from codegen_edge.errors import ContextLengthError, IntegrityError
from codegen_edge.evaluation.runs.configuration import Settings
from codegen_edge.evaluation.runs.records import SampleLine
from codegen_edge.evaluation.tasks.task import Item
from codegen_edge.generation.model import Model
from codegen_edge.generation.output import RowOutput
from codegen_edge.generation.params import GenerationParams
from codegen_edge.generation.request import Request
from codegen_edge.generation.slots import Prefix, SlotBatch, slot_batch
from codegen_edge.runtimes.runtime import KVCache

_STEP_SECONDS = 1.0  # of a step that reads prompts: nobody waits for a first token here
_CONTEXT = "context"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Samples of one item that are to be written.

    Attributes:
        item: what for.
        first_sample: number of the first one.
        num_samples: how many, one after another.
    """

    item: Item
    first_sample: int = 0
    num_samples: int = 1


class Sampler(Protocol):
    """What writes samples."""

    def sample(self, work: Sequence[Work]) -> Iterator[SampleLine]:
        """Write the samples, in any order; each one depends on its item, its number and the settings alone."""


def require_fingerprint(bundle: Bundle, fingerprint: str) -> None:
    """Raise IntegrityError unless a bundle is the one that a run's configuration names."""
    if bundle.fingerprint != fingerprint:
        raise IntegrityError(f"{bundle.path} is not the bundle any more that this run began with")


class ModelSampler:
    """Samples of one model in this process.

    Args:
        model: writes them.
        settings: how they are drawn.
        fields: of GenerationParams, which the task fixes.
        batch: rows at one time, of items with one turn. Items with several turns are read one after another.
        keep_caches: whether a conversation keeps its KV cache from turn to turn; without, each turn reads all anew.
    """

    def __init__(
        self,
        model: Model,
        settings: Settings,
        fields: Mapping[str, Any],
        *,
        batch: int = 8,
        keep_caches: bool = True,
    ) -> None:
        self._model = model
        self._settings = settings
        self._fields = dict(fields)
        self._batch = batch
        self._keep_caches = keep_caches

    def sample(self, work: Sequence[Work]) -> Iterator[SampleLine]:
        """See `Sampler`."""
        single = [each for each in work if len(each.item.turns) == 1]
        yield from self._in_slots(single)
        for each in work:
            if len(each.item.turns) > 1:
                for number in range(each.first_sample, each.first_sample + each.num_samples):
                    yield self._conversation(each.item, number)

    def _params(self, max_new_tokens: int, seed: int, num_samples: int = 1) -> GenerationParams:
        settings = self._settings
        return GenerationParams(
            max_new_tokens=max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=seed,
            n=num_samples if settings.temperature else 1,
            **self._fields,
        )

    def _in_slots(self, work: Sequence[Work]) -> Iterator[SampleLine]:
        model, config = self._model, self._model.runtime.config
        queue: deque[_Prompt] = deque()
        for each in work:
            ids = model.tokenizer.encode(each.item.turns[0].text)
            if len(ids) >= config.context_length:
                for number in range(each.first_sample, each.first_sample + each.num_samples):
                    yield _not_fitting(each.item, number, len(ids))
            else:
                queue.append(_Prompt(each, ids))
        if not queue:
            return
        longest = max(len(each.ids) + each.work.item.turns[0].max_new_tokens for each in queue)
        running = _SlotSampling(self._model, queue, capacity=min(longest, config.context_length), slots=self._batch)
        yield from running.lines(self._params, self._settings)

    def _conversation(self, item: Item, number: int) -> SampleLine:
        session = self._model.session()
        completions: list[str] = []
        context, num_tokens, reason, prompt_tokens = "", 0, "", 0
        for place, turn in enumerate(item.turns):
            context += turn.text
            if not self._keep_caches:
                session = self._model.session()
            # Tokens of the whole text, as the paper's script reads it; what is as before keeps its keys and values.
            session.rewind(0)
            session.append(context)
            prompt_tokens = session.num_tokens
            seed = self._settings.item_seed(item.task_id, number, place)
            try:
                completion = session.generate(self._params(turn.max_new_tokens, seed))
            except ContextLengthError:
                return _not_fitting(item, number, prompt_tokens)
            completions.append(completion.text)
            context += completion.text + turn.after
            num_tokens += len(completion.token_ids)
            reason = completion.finish_reason
        return SampleLine(
            task_id=item.task_id,
            sample=number,
            completions=tuple(completions),
            prompt_tokens=prompt_tokens,
            num_tokens=num_tokens,
            finish_reason=reason,
        )


@dataclass(slots=True)
class _Prompt:
    """Samples of one prompt, some of which may have been admitted.

    Attributes:
        work: what is to be written.
        ids: of the prompt.
        num_admitted: samples that have slots or had them.
        prefix: keys and values of the prompt, kept while samples of it wait for slots.
    """

    work: Work
    ids: list[int]
    num_admitted: int = 0
    prefix: Prefix | None = None

    @property
    def num_waiting(self) -> int:
        return self.work.num_samples - self.num_admitted


class _SlotSampling:
    """One pass over prompts with a fixed number of slots."""

    def __init__(self, model: Model, queue: deque[_Prompt], *, capacity: int, slots: int) -> None:
        self._model = model
        self._queue = queue
        self._slots: SlotBatch = slot_batch(
            model.runtime,
            slots=slots,
            capacity=capacity,
            num_allowed_ids=model.tokenizer.vocab_size,
            on_read=self._keep_prefix,
        )
        self._rows: dict[int, tuple[_Prompt, int, RowOutput]] = {}

    def lines(self, params_of: _ParamsOf, settings: Settings) -> Iterator[SampleLine]:
        while self._queue or self._slots.rows:
            while self._queue and self._slots.free_slots:
                self._admit(self._queue[0], params_of, settings)
                if not self._queue[0].num_waiting:
                    self._queue.popleft()
            for event in self._slots.step(_STEP_SECONDS):
                prompt, number, output = self._rows[event.row]
                output.add(event)
                if output.is_stopped:
                    self._slots.finish(event.row)
                if output.finish_reason is not None:
                    del self._rows[event.row]
                    yield _line(prompt, number, output)

    def _admit(self, prompt: _Prompt, params_of: _ParamsOf, settings: Settings) -> None:
        item, free = prompt.work.item, self._slots.free_slots
        assert free is not None
        count = min(prompt.num_waiting, free)
        params = params_of(item.turns[0].max_new_tokens, settings.item_seed(item.task_id), count)
        config, vocab_size = self._model.runtime.config, self._model.tokenizer.vocab_size
        request = Request.of([prompt.ids], params, config, vocab_size)
        first = prompt.work.first_sample + prompt.num_admitted
        rows = self._slots.admit(request, prefix=prompt.prefix, first_sample=first)
        prompt.num_admitted += count
        for place, row in enumerate(rows):
            output = RowOutput(self._model.tokenizer, params, config.eos_token_id, len(prompt.ids))
            self._rows[row] = (prompt, first + place, output)

    def _keep_prefix(self, row: int, cache: KVCache, place: int) -> None:
        """Keep a prompt that further samples wait for."""
        prompt, _, _ = self._rows[row]
        if prompt.num_waiting and prompt.prefix is None and len(prompt.ids) > 1:
            kept = self._model.runtime.new_cache(1, len(prompt.ids))
            kept.select([])
            kept.join(cache, [place])
            prompt.prefix = Prefix(kept, len(prompt.ids) - 1)


class _ParamsOf(Protocol):
    def __call__(self, max_new_tokens: int, seed: int, num_samples: int = 1) -> GenerationParams: ...


def _line(prompt: _Prompt, number: int, output: RowOutput) -> SampleLine:
    assert output.finish_reason is not None
    return SampleLine(
        task_id=prompt.work.item.task_id,
        sample=number,
        completions=(output.text,),
        prompt_tokens=len(prompt.ids),
        num_tokens=len(output.token_ids),
        finish_reason=output.finish_reason,
    )


def _not_fitting(item: Item, number: int, prompt_tokens: int) -> SampleLine:
    return SampleLine(
        task_id=item.task_id, sample=number, completions=None, prompt_tokens=prompt_tokens, finish_reason=_CONTEXT
    )
