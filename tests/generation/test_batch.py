"""Rows that join, leave, share a prefill and end; on scripted logits, which depend on every token of a row."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from codegen_edge.errors import CancelledError, ContextLengthError, InvalidInputError
from codegen_edge.generation import CancelToken, GenerationLoop, GenerationParams, RunningBatch, TokenEvent
from codegen_edge.runtimes.backends.scripted import ScriptedCache, ScriptedRuntime

VOCAB_SIZE, EOS = 32, 0


def hash_script(sequence: tuple[int, ...]) -> NDArray[np.float32]:
    logits = np.random.default_rng(list(sequence)).normal(size=VOCAB_SIZE).astype(np.float32)
    logits[EOS] -= 2
    return logits


def runtime(**options: Any) -> ScriptedRuntime:
    return ScriptedRuntime(hash_script, vocab_size=VOCAB_SIZE, eos_token_id=EOS, **options)


def tokens_by_row(events: Sequence[TokenEvent]) -> dict[int, list[int | None]]:
    rows: dict[int, list[int | None]] = {}
    for event in events:
        rows.setdefault(event.row, []).append(event.token_id)
    return rows


def alone(prompt: list[int], params: GenerationParams) -> list[int | None]:
    return tokens_by_row(list(GenerationLoop(runtime(), [prompt], params)))[0]


SAMPLED = GenerationParams(max_new_tokens=12, temperature=1.0, seed=5)


@pytest.mark.parametrize("params", [GenerationParams(max_new_tokens=12), SAMPLED], ids=["greedy", "sampled"])
def test_rows_that_join_and_leave_get_what_they_get_alone(params: GenerationParams) -> None:
    batch = RunningBatch(runtime())
    prompts = [[3, 4], [5], [6, 7, 8], [9, 9]]
    events: list[TokenEvent] = []
    assert batch.add(prompts[:1], params) == [0]
    for number in range(1, 4):
        for _ in range(3):
            events += batch.step()
        assert batch.add([prompts[number]], params) == [number]
    while batch.rows:
        events += batch.step()
    found = tokens_by_row(events)
    assert {number: alone(prompt, params) for number, prompt in enumerate(prompts)} == found
    assert [event.step for event in events if event.row == 2] == list(range(len(found[2])))


def test_row_that_joins_an_empty_batch_goes_on() -> None:
    batch = RunningBatch(runtime())
    params = GenerationParams(max_new_tokens=2)
    for prompt in ([3], [4]):
        batch.add([prompt], params)
        events = [event for _ in range(2) for event in batch.step()]
        assert [event.token_id for event in events] == alone(prompt, params)
    assert batch.rows == []
    assert list(batch.step()) == []


def test_samples_share_one_prefill_and_the_first_is_that_of_a_single_run() -> None:
    computing = runtime()
    params = GenerationParams(max_new_tokens=6, temperature=1.0, seed=5, n=3)
    rows = tokens_by_row(list(GenerationLoop(computing, [[3, 4, 5], [6, 7]], params)))
    assert computing.steps[:2] == [(1, 3), (1, 2)]
    assert set(rows) == set(range(6))
    single = GenerationParams(max_new_tokens=6, temperature=1.0, seed=5)
    assert rows[0] == alone([3, 4, 5], single)
    assert rows[3] == alone([6, 7], single)
    assert len({tuple(row) for row in rows.values()}) == 6
    assert rows == tokens_by_row(list(GenerationLoop(runtime(), [[3, 4, 5], [6, 7]], params)))


def test_prompts_of_one_length_are_read_in_one_step() -> None:
    computing = runtime()
    list(GenerationLoop(computing, [[3, 4], [5, 6], [7]], GenerationParams(max_new_tokens=1)))
    assert computing.steps == [(2, 2), (1, 1)]


def test_prefill_in_chunks_gives_the_same_tokens_and_tells_its_progress() -> None:
    computing, told = runtime(), []
    params = GenerationParams(max_new_tokens=3, prefill_chunk=4)
    loop = GenerationLoop(computing, [list(range(1, 11)), [4, 5]], params, on_prefill=lambda *at: told.append(at))
    rows = tokens_by_row(list(loop))
    assert computing.steps[:4] == [(1, 4), (1, 4), (1, 2), (1, 2)]
    assert told == [(4, 12), (8, 12), (10, 12), (12, 12)]
    assert rows[0] == alone(list(range(1, 11)), GenerationParams(max_new_tokens=3))


@pytest.mark.parametrize(("of_runtime", "of_params", "chunk"), [(None, None, 512), (200, None, 200), (200, 300, 300)])
def test_prompt_is_read_by_what_is_asked_for_or_by_what_the_runtime_reads_fastest(
    of_runtime: int | None, of_params: int | None, chunk: int
) -> None:
    computing: Any = runtime(context_length=1024)
    if of_runtime is not None:
        computing.prefill_chunk = of_runtime
    list(GenerationLoop(computing, [[1] * 600], GenerationParams(max_new_tokens=1, prefill_chunk=of_params)))
    assert computing.steps[0] == (1, chunk)


def test_cancelling_within_a_long_prefill_stops_it_at_the_next_chunk() -> None:
    cancel = CancelToken()
    computing = runtime(before_step=lambda step: cancel.cancel() if step == 2 else None)
    loop = GenerationLoop(computing, [[1] * 100], GenerationParams(prefill_chunk=10), cancel=cancel)
    with pytest.raises(CancelledError):
        list(loop)
    assert len(computing.steps) == 2


def test_stop_id_ends_a_row_and_unlike_the_end_of_text_names_itself() -> None:
    tokens = alone([3], GenerationParams(max_new_tokens=8))
    stop_id = tokens[3]
    assert stop_id is not None
    events = list(GenerationLoop(runtime(), [[3]], GenerationParams(max_new_tokens=8, stop_ids=(stop_id,))))
    assert [event.token_id for event in events] == tokens[: tokens.index(stop_id) + 1]
    assert events[-1].finish_reason == "stop_id"


@pytest.mark.quiet
def test_deadline_ends_a_row_with_what_it_has() -> None:
    computing = runtime(before_step=lambda step: time.sleep(0.05))
    events = list(GenerationLoop(computing, [[3]], GenerationParams(max_new_tokens=100, max_seconds=0.2)))
    assert 1 <= len(events) <= 5
    assert events[-1].finish_reason == "deadline"
    assert events[-1].seconds >= 0.2
    assert all(event.seconds < 0.2 for event in events[:-1])


def test_deadline_within_the_prefill_ends_a_row_without_a_token() -> None:
    computing = runtime(before_step=lambda step: time.sleep(0.05))
    params = GenerationParams(max_seconds=0.08, prefill_chunk=1, temperature=1.0, n=2)
    events = list(GenerationLoop(computing, [[3] * 50], params))
    assert [(event.row, event.token_id, event.finish_reason) for event in events] == [
        (0, None, "deadline"),
        (1, None, "deadline"),
    ]
    assert len(computing.steps) < 5


def test_prompt_is_cut_from_the_left_only_when_asked() -> None:
    prompt = [1 + number % 30 for number in range(40)]
    with pytest.raises(ContextLengthError, match="has 40 tokens; the model's context of 16 .*cut-left"):
        GenerationLoop(runtime(context_length=16), [prompt], GenerationParams(max_new_tokens=4))
    params = GenerationParams(max_new_tokens=4, prompt_overflow="cut-left")
    events = list(GenerationLoop(runtime(context_length=16), [prompt], params))
    assert [event.token_id for event in events] == alone(prompt[-12:], GenerationParams(max_new_tokens=4))


def test_batch_has_the_capacity_that_it_was_given() -> None:
    batch = RunningBatch(runtime(), capacity=6)
    with pytest.raises(ContextLengthError, match="7 tokens, a row of this batch holds 6"):
        batch.add([[1] * 7], GenerationParams())
    batch.add([[1] * 4], GenerationParams(max_new_tokens=50))
    events: list[TokenEvent] = []
    while batch.rows:
        events += batch.step()
    assert len(events) == 3
    assert events[-1].finish_reason == "context"


def test_batch_goes_on_after_a_prompt_that_was_refused() -> None:
    batch = RunningBatch(runtime())
    params = GenerationParams(max_new_tokens=5)
    batch.add([[3]], params)
    events = list(batch.step())
    with pytest.raises(InvalidInputError, match="outside the vocabulary"):
        batch.add([[99]], params)
    while batch.rows:
        events += batch.step()
    assert tokens_by_row(events)[0] == alone([3], params)


def test_row_whose_hook_fails_is_named_and_the_others_go_on() -> None:
    batch = RunningBatch(runtime())
    good, bad = GenerationParams(max_new_tokens=5), GenerationParams(processors=(lambda _, scores: scores[1:],))
    batch.add([[3]], good)
    events = list(batch.step())
    batch.add([[4]], bad)
    with pytest.raises(InvalidInputError, match=r"row 1: processors\[0\] must return"):
        events += batch.step()
    assert batch.rows == [0]
    while batch.rows:
        events += batch.step()
    assert tokens_by_row(events) == {0: alone([3], good)}


@pytest.mark.parametrize(
    "params",
    [{"stop_ids": (25,)}, {"logit_bias": {25: 1.0}}, {"suppressed_ids": (25,)}, {"forced_ids": {0: 25}}],
)
def test_id_without_a_token_is_refused(params: dict[str, Any]) -> None:
    """Rows of the head beyond the tokenizer's ids."""
    with pytest.raises(InvalidInputError, match=f"{next(iter(params))} holds id 25, outside the vocabulary of 20"):
        RunningBatch(runtime(), num_allowed_ids=20).add([[3]], GenerationParams(**params))
    with pytest.raises(InvalidInputError, match="num_allowed_ids must be at least 1"):
        RunningBatch(runtime(), num_allowed_ids=0)


def test_prompt_ids_without_a_token_are_read_and_never_repeated() -> None:
    params = GenerationParams(max_new_tokens=4, no_repeat_ngram_size=2, repetition_penalty=1.5)
    events = list(GenerationLoop(runtime(), [[25, 26, 25, 26, 25]], params, num_allowed_ids=20))
    assert all(event.token_id is not None and event.token_id < 20 for event in events)


def test_cut_prompt_needs_room() -> None:
    params = GenerationParams(max_new_tokens=16, prompt_overflow="cut-left")
    with pytest.raises(ContextLengthError, match="max_new_tokens 16 leaves nothing of the context of 16"):
        GenerationLoop(runtime(context_length=16), [[1] * 20], params)


def test_two_batches_run_in_two_threads_on_one_runtime() -> None:
    computing, found = runtime(), {}

    def run(first: int) -> None:
        found[first] = tokens_by_row(list(GenerationLoop(computing, [[first]], SAMPLED)))[0]

    threads = [threading.Thread(target=run, args=(first,)) for first in (3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {first: alone([first], SAMPLED) for first in (3, 4)}


def test_logprobs_come_with_their_tokens() -> None:
    params = GenerationParams(max_new_tokens=3, top_logprobs=2)
    events = list(GenerationLoop(runtime(), [[3]], params))
    ids = [3]
    for event in events:
        logits = hash_script(tuple(ids))
        expected = logits - np.log(np.exp(logits).sum())
        assert event.token_id is not None
        assert event.logprob == pytest.approx(expected[event.token_id], abs=1e-5)
        assert event.top_logprobs[0][0] == event.token_id
        assert len(event.top_logprobs) == 2
        ids.append(event.token_id)


def test_a_row_that_leaves_moves_one_row_and_not_all_behind_it() -> None:
    moves: list[int] = []

    class Watched(ScriptedCache):
        def select(self, rows: Sequence[int], shared: int = 0) -> None:
            moves.append(sum(new != old for new, old in enumerate(rows)))
            super().select(rows, shared)

    class WatchedRuntime(ScriptedRuntime):
        def new_cache(self, batch_size: int, capacity: int) -> ScriptedCache:
            return Watched(batch_size, capacity)

    batch = RunningBatch(WatchedRuntime(hash_script, vocab_size=VOCAB_SIZE, eos_token_id=EOS))
    rows = batch.add([[1 + row] for row in range(8)], GenerationParams(max_new_tokens=50, suppressed_ids=(EOS,)))
    list(batch.step())
    moves.clear()
    batch.finish(rows[0])
    batch.finish(rows[2])
    tokens = [event.row for event in batch.step()]
    assert sorted(tokens) == [1, 3, 4, 5, 6, 7]
    assert moves == [2]
