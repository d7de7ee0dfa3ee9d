"""What a server stands on: prompts read bit by bit, rows cancelled one by one, fixed slots, one output for each row."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from codegen_edge.bundle import Bundle
from codegen_edge.bundle.model_config import ModelConfig
from codegen_edge.errors import CancelledError, InvalidInputError
from codegen_edge.generation import CancelToken, GenerationLoop, GenerationParams, Request, RunningBatch, TokenEvent
from codegen_edge.generation.model import load_model
from codegen_edge.generation.output import RowOutput
from codegen_edge.generation.prefill import Pace
from codegen_edge.runtimes.backends.kv_buffers import KVBuffers
from codegen_edge.runtimes.backends.scripted import ScriptedCache, ScriptedRuntime

VOCAB_SIZE, EOS = 32, 0
LONG = GenerationParams(max_new_tokens=60, suppressed_ids=(EOS,))


def hash_script(sequence: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(list(sequence)).normal(size=VOCAB_SIZE).astype(np.float32)


def runtime(**options: Any) -> ScriptedRuntime:
    return ScriptedRuntime(hash_script, vocab_size=VOCAB_SIZE, eos_token_id=EOS, **options)


def tokens(events: list[TokenEvent], row: int) -> list[int | None]:
    return [event.token_id for event in events if event.row == row and event.token_id is not None]


def alone(prompt: list[int], params: GenerationParams = LONG) -> list[int | None]:
    return tokens(list(GenerationLoop(runtime(), [prompt], params)), 0)


def to_the_end(batch: RunningBatch) -> list[TokenEvent]:
    events: list[TokenEvent] = []
    while batch.rows:
        events += batch.step()
    return events


def test_rows_decode_while_a_long_prompt_is_read_and_both_get_what_they_get_alone() -> None:
    prompt = [1 + number % 30 for number in range(400)]
    computing = runtime(before_step=lambda _: time.sleep(0.002))
    batch = RunningBatch(computing)
    batch.add([[3, 4]], LONG)
    events = list(batch.step())
    prefill = batch.begin(Request.of([prompt], LONG, computing.config))
    assert (prefill.num_read, prefill.num_tokens, prefill.rows) == (0, 400, [1])
    pieces = 0
    while not batch.advance(prefill, seconds=0.005):
        assert batch.rows == [0]
        events += batch.step()
        pieces += 1
    assert pieces >= 2
    assert batch.rows == [0, 1]
    events += to_the_end(batch)
    assert tokens(events, 0) == alone([3, 4])
    assert tokens(events, 1) == alone(prompt)


def test_chunks_grow_and_shrink_with_what_a_token_costs() -> None:
    pace = Pace()
    assert pace.chunk(1.0, 1, 512) == 16  # nothing is known yet
    pace.record(100, 0.1)  # a millisecond for each token
    assert pace.chunk(0.05, 1, 512) == 50
    assert pace.chunk(0.05, 2, 512) == 25
    assert pace.chunk(9.0, 1, 512) == 512
    assert pace.chunk(0.0, 1, 512) == 16  # a prompt is read to its end, however little time there is
    assert pace.chunk(0.0, 1, 4) == 4
    for _ in range(20):
        pace.record(100, 1.0)
    assert pace.chunk(0.5, 1, 512) == 50


@pytest.mark.quiet
def test_one_call_reads_for_about_its_time_and_no_longer() -> None:
    computing = runtime(before_step=lambda _: time.sleep(0.02))
    batch = RunningBatch(computing)
    prefill = batch.begin(Request.of([[1] * 1000], LONG, computing.config))
    started_at = time.monotonic()
    assert not batch.advance(prefill, seconds=0.05)
    assert time.monotonic() - started_at < 0.5
    assert 0 < prefill.num_read < 1000


def test_cancelled_row_ends_and_the_others_go_on() -> None:
    batch, cancel = RunningBatch(runtime()), CancelToken()
    batch.add([[3]], LONG)
    batch.add([[4]], LONG, cancel=cancel)
    events = [event for _ in range(3) for event in batch.step()]
    cancel.cancel()
    events += to_the_end(batch)
    assert tokens(events, 0) == alone([3])
    of_cancelled = [event for event in events if event.row == 1]
    assert (of_cancelled[-1].token_id, of_cancelled[-1].finish_reason) == (None, "cancelled")
    assert tokens(events, 1) == alone([4])[: len(of_cancelled) - 1]
    assert len(of_cancelled) <= 4


def test_request_that_is_cancelled_while_it_is_read_ends_alone() -> None:
    batch, cancel = RunningBatch(runtime()), CancelToken()
    batch.add([[3]], LONG)
    events = list(batch.step())
    params = GenerationParams(max_new_tokens=4, temperature=1.0, n=2)
    prefill = batch.begin(Request.of([[5] * 100], params, runtime().config), cancel=cancel)
    assert not batch.advance(prefill, seconds=0.0)
    cancel.cancel()
    assert batch.advance(prefill, seconds=0.0)
    events += to_the_end(batch)
    ended = [(event.row, event.token_id, event.finish_reason) for event in events if event.row > 0]
    assert ended == [(1, None, "cancelled"), (2, None, "cancelled")]
    assert tokens(events, 0) == alone([3])


def test_request_that_is_cancelled_within_a_step_ends_alone() -> None:
    cancel = CancelToken()
    computing = runtime(before_step=lambda step: cancel.cancel() if step == 1 else None)
    batch = RunningBatch(computing)
    batch.add([[3]], LONG)
    batch.add([[5] * 10], LONG, cancel=cancel)
    events = to_the_end(batch)
    assert [event.finish_reason for event in events if event.row == 1] == ["cancelled"]
    assert tokens(events, 0) == alone([3])


def test_cancelled_batch_raises_whatever_its_rows_have() -> None:
    whole = CancelToken()
    batch = RunningBatch(runtime(), cancel=whole)
    batch.add([[3]], LONG, cancel=CancelToken())
    prefill = batch.begin(Request.of([[5] * 100], LONG, runtime().config), cancel=CancelToken())
    whole.cancel()
    with pytest.raises(CancelledError):
        batch.advance(prefill)
    with pytest.raises(CancelledError):
        to_the_end(batch)


def test_slots_are_reserved_once_and_refused_when_taken() -> None:
    caches: list[ScriptedCache] = []

    class Watched(ScriptedRuntime):
        def new_cache(self, batch_size: int, capacity: int) -> ScriptedCache:
            caches.append(super().new_cache(batch_size, capacity))
            return caches[-1]

    computing = Watched(hash_script, vocab_size=VOCAB_SIZE, eos_token_id=EOS)
    batch = RunningBatch(computing, slots=3)
    assert batch.free_slots == 3
    batch.add([[3]], LONG)
    assert caches[0].reserved == 3
    pending = batch.begin(Request.of([[4], [5]], LONG, computing.config))
    assert batch.free_slots == 0
    with pytest.raises(InvalidInputError, match="1 rows were given, 0 of the batch's 3 slots are free"):
        batch.begin(Request.of([[6]], LONG, computing.config))
    batch.advance(pending)
    batch.finish(0)
    assert batch.free_slots == 1
    list(batch.step())
    batch.add([[7]], LONG)
    assert batch.free_slots == 0
    for row in batch.rows:
        batch.finish(row)
    list(batch.step())
    assert batch.free_slots == 3
    batch.add([[8]], LONG)
    assert tokens(to_the_end(batch), 4) == alone([8])
    with pytest.raises(InvalidInputError, match="slots must be at least 1"):
        RunningBatch(computing, slots=0)


CONFIG = ModelConfig(
    vocab_size=64,
    context_length=32,
    num_layers=2,
    num_heads=4,
    head_dim=16,
    rotary_dim=16,
    inner_size=64,
    eos_token_id=0,
)


def filled(rows: int, length: int, seed: int) -> KVBuffers:
    cache = KVBuffers(CONFIG, rows, 32, np.float32)
    rng = np.random.default_rng(seed)
    for row in range(rows):
        given = cache.read_row(row)
        tensors = {name: rng.random((4, length, 16), np.float32) for name in given}
        cache.write_row(row, tensors)
    return cache


def test_reserved_buffers_stay_where_they_are_through_joins_and_leaves() -> None:
    cache = filled(1, 5, seed=0)
    cache.reserve(4)
    addresses = [buffer.address for buffer in cache.buffers.values()]
    first = cache.read_row(0)
    for seed in (1, 2, 3):
        cache.join(filled(1, 3 + seed, seed))
    expected = [filled(1, 3 + seed, seed).read_row(0) for seed in (1, 2, 3)]
    cache.select([3, 1, 2])  # row 0 leaves, the last one fills its place
    for row, truth in enumerate((expected[2], expected[0], expected[1])):
        np.testing.assert_equal(cache.read_row(row), truth)
    cache.select([])
    assert cache.lengths.tolist() == []
    cache.join(filled(1, 5, seed=0))
    np.testing.assert_equal(cache.read_row(0), first)
    assert [buffer.address for buffer in cache.buffers.values()] == addresses


@pytest.mark.parametrize("order", [[1, 0, 2], [2, 2, 0], [0, 0, 0], [2, 1, 0]])
def test_rows_that_change_places_are_not_overwritten(order: list[int]) -> None:
    cache = filled(3, 6, seed=0)
    before = [cache.read_row(row) for row in range(3)]
    cache.select(order)
    for row, old in enumerate(order):
        np.testing.assert_equal(cache.read_row(row), before[old])


def test_output_of_a_row_is_the_same_over_a_batch_as_over_a_loop(tiny_bundle: Bundle) -> None:
    with load_model(tiny_bundle.path) as model:
        prompt = "def f(x):"
        whole = model.generate(prompt, max_new_tokens=24)
        stop = whole.text[10:13]
        params = GenerationParams(max_new_tokens=24, stop=(stop,), top_logprobs=1)
        truth = model.generate(prompt, params)
        batch = RunningBatch(model.runtime, num_allowed_ids=model.tokenizer.vocab_size, slots=2)
        ids = model.tokenizer.encode(prompt)
        other = GenerationParams(max_new_tokens=24)
        eos = model.runtime.config.eos_token_id
        outputs = {
            batch.add([ids], each)[0]: RowOutput(model.tokenizer, each, eos, len(ids)) for each in (params, other)
        }
        pieces: dict[int, str] = dict.fromkeys(outputs, "")
        while batch.rows:
            for event in batch.step():
                output = outputs[event.row]
                pieces[event.row] += output.add(event).text
                if output.is_stopped:
                    batch.finish(event.row)
        found = outputs[0].completion()
        assert (found.text, found.finish_reason, found.token_ids) == (truth.text, "stop", truth.token_ids)
        assert found.logprobs == pytest.approx(truth.logprobs, abs=1e-4)
        assert pieces == {0: truth.text, 1: whole.text}
        assert outputs[1].completion().finish_reason == whole.finish_reason


def test_unfinished_output_has_no_completion(tiny_bundle: Bundle) -> None:
    with load_model(tiny_bundle.path) as model:
        output = RowOutput(model.tokenizer, GenerationParams(), 0, 1)
    with pytest.raises(InvalidInputError, match="has not ended"):
        output.completion()


def test_parameters_may_be_given_whole_or_by_keyword(tiny_bundle: Bundle) -> None:
    with load_model(tiny_bundle.path) as model:
        params = GenerationParams(max_new_tokens=5)
        assert model.generate("def f", params).token_ids == model.generate("def f", max_new_tokens=5).token_ids
        assert len(model.generate("def f", params, max_new_tokens=3).token_ids) == 3
        with pytest.raises(InvalidInputError, match="params must be GenerationParams, got dict"):
            model.generate("def f", {"max_new_tokens": 5})  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="max_tokens"):
            model.generate("def f", max_tokens=5)
