"""Slots: prompts are read beside rows that decode, and nobody's tokens depend on who else is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from codegen_edge.bundle import Bundle
from codegen_edge.errors import InvalidInputError, NumericsError
from codegen_edge.generation import CancelToken, GenerationLoop, GenerationParams, Request, TokenEvent
from codegen_edge.generation.slots import Prefix, RaggedBatch, SlicedBatch, StepTimes, slot_batch
from codegen_edge.runtimes import open_runtime
from codegen_edge.runtimes.backends.scripted import ScriptedRuntime

VOCAB_SIZE, EOS = 32, 0
BATCHES = [RaggedBatch, SlicedBatch]


def hash_script(sequence: tuple[int, ...]) -> NDArray[np.float32]:
    logits = np.random.default_rng(list(sequence)).normal(size=VOCAB_SIZE).astype(np.float32)
    logits[EOS] -= 2
    return logits


def runtime(script: Any = hash_script, **options: Any) -> ScriptedRuntime:
    return ScriptedRuntime(script, vocab_size=VOCAB_SIZE, eos_token_id=EOS, **options)


def request(prompt: Sequence[int], params: GenerationParams) -> Request:
    return Request.of([prompt], params, runtime().config)


def alone(prompt: Sequence[int], params: GenerationParams) -> dict[int, list[int | None]]:
    return tokens(list(GenerationLoop(runtime(), [prompt], params)))


def tokens(events: Sequence[TokenEvent]) -> dict[int, list[int | None]]:
    rows: dict[int, list[int | None]] = {}
    for event in events:
        rows.setdefault(event.row, []).append(event.token_id)
    return rows


def to_the_end(batch: Any) -> list[TokenEvent]:
    events: list[TokenEvent] = []
    for _ in range(400):
        events += batch.step()
        if not batch.rows:
            return events
    raise AssertionError("the batch does not end")


SAMPLED = GenerationParams(max_new_tokens=8, temperature=1.0, seed=5)


@pytest.mark.parametrize("make", BATCHES)
@pytest.mark.parametrize("params", [GenerationParams(max_new_tokens=8), SAMPLED], ids=["greedy", "sampled"])
def test_rows_get_what_they_get_alone(make: Any, params: GenerationParams) -> None:
    batch = make(runtime(), slots=3)
    prompts = [list(range(1, 30)), [5], [6, 7] * 40]
    events: list[TokenEvent] = []
    numbers = {}
    for prompt in prompts:
        numbers[batch.admit(request(prompt, params))[0]] = prompt
        for _ in range(2):
            events += batch.step()
    events += to_the_end(batch)
    assert tokens(events) == {number: alone(prompt, params)[0] for number, prompt in numbers.items()}
    assert batch.free_slots == 3


@pytest.mark.parametrize("make", BATCHES)
def test_samples_share_one_prefill_and_have_numbers_of_their_own(make: Any) -> None:
    params = GenerationParams(max_new_tokens=6, temperature=1.0, seed=9, n=3)
    computing = runtime()
    batch = make(computing, slots=4)
    assert batch.admit(request([1, 2, 3, 4], params)) == [0, 1, 2]
    assert batch.free_slots == 1
    events = to_the_end(batch)
    assert tokens(events) == alone([1, 2, 3, 4], params)
    assert sum(rows * count for rows, count in computing.steps if count > 1) == 4

    whole = alone([1, 2, 3, 4], params)
    later = GenerationParams(max_new_tokens=6, temperature=1.0, seed=9, n=2)
    batch = make(runtime(), slots=4)
    batch.admit(request([1, 2, 3, 4], later), first_sample=1)
    assert list(tokens(to_the_end(batch)).values()) == [whole[1], whole[2]]


@pytest.mark.parametrize("make", BATCHES)
def test_prompt_that_is_cancelled_or_finished_while_it_is_read_frees_its_slots(make: Any) -> None:
    for ending in ("cancel", "finish", "deadline"):
        batch, cancel = make(runtime(), slots=3), CancelToken()
        going = batch.admit(request([3], GenerationParams(max_new_tokens=12)))
        params = GenerationParams(
            max_new_tokens=4, n=2, temperature=1.0, max_seconds=1e-9 if ending == "deadline" else None
        )
        rows = batch.admit(request([2] * 300, params), cancel=cancel)
        events = list(batch.step(0.0))
        if ending == "cancel":
            cancel.cancel()
        elif ending == "finish":
            batch.finish(rows[0])
        events += to_the_end(batch)
        reasons = {event.row: event.finish_reason for event in events if event.row in rows}
        expected = {"cancel": "cancelled", "deadline": "deadline"}.get(ending)
        assert reasons == (dict.fromkeys(rows, expected) if expected else {}), ending
        assert tokens(events)[going[0]] == alone([3], GenerationParams(max_new_tokens=12))[0]
        assert batch.free_slots == 3


@pytest.mark.parametrize("make", BATCHES)
def test_prefix_that_is_cached_is_not_read_again(make: Any) -> None:
    computing = runtime()
    read: list[tuple[int, Any]] = []

    def keep(number: int, cache: Any, row: int) -> None:
        kept = computing.new_cache(1, 64)
        kept.select([])
        kept.join(cache, [row])
        read.append((number, kept))

    params = GenerationParams(max_new_tokens=5)
    batch = make(computing, slots=2, on_read=keep)
    batch.admit(request([1, 2, 3, 4, 5, 6], params))
    to_the_end(batch)
    ((number, kept),) = read
    assert (number, kept.sequences) == (0, [[1, 2, 3, 4, 5, 6]])
    computing.steps.clear()
    batch.admit(request([1, 2, 3, 4, 5, 6, 7, 8], params), prefix=Prefix(kept, 6))
    found = to_the_end(batch)
    assert computing.steps[0] == (1, 2)
    assert tokens(found)[1] == alone([1, 2, 3, 4, 5, 6, 7, 8], params)[0]


@pytest.mark.parametrize("make", BATCHES)
def test_row_that_fails_leaves_the_others_alone(make: Any) -> None:
    def script(sequence: tuple[int, ...]) -> NDArray[np.float32]:
        return (
            np.full(VOCAB_SIZE, np.nan, np.float32) if sequence[0] == 7 and len(sequence) > 3 else hash_script(sequence)
        )

    failed: list[tuple[int, Exception]] = []
    batch = make(runtime(script), slots=2, on_row_error=lambda number, error: failed.append((number, error)))
    params = GenerationParams(max_new_tokens=6)
    batch.admit(request([7, 1], params))
    batch.admit(request([3], params))
    events = to_the_end(batch)
    assert [(number, type(error)) for number, error in failed] == [(0, NumericsError)]
    assert tokens(events)[1] == alone([3], params)[0]


def test_slices_go_into_the_run_of_the_rows_that_decode() -> None:
    computing = runtime()
    batch = RaggedBatch(computing, slots=2)
    batch.admit(request([3], GenerationParams(max_new_tokens=30)))
    list(batch.step())
    computing.steps.clear()
    batch.admit(request([2] * 20, GenerationParams(max_new_tokens=2)))
    list(batch.step(0.0))
    assert computing.steps == [(2, 8)]


def test_full_batch_and_several_prompts_are_refused() -> None:
    batch = RaggedBatch(runtime(), slots=1)
    several = Request.of([[1], [2]], GenerationParams(), runtime().config)
    with pytest.raises(InvalidInputError, match="one prompt at a time, got 2"):
        batch.admit(several)
    batch.admit(request([1], GenerationParams()))
    with pytest.raises(InvalidInputError, match="0 of the batch's 1 slots are free"):
        batch.admit(request([1], GenerationParams()))


@given(st.floats(0.001, 1), st.floats(1e-5, 0.1), st.integers(0, 8), st.integers(1, 512))
def test_slice_is_within_its_bounds(plain: float, per_token: float, decoding: int, most: int) -> None:
    times = StepTimes(plain, per_token, per_token)
    count = times.slice(decoding, 0.1, most)
    assert min(8, most) <= count <= most
    if count > 8 and decoding:
        assert count * per_token <= max(plain, 0.07 - plain) + 1e-9


def test_slot_batch_is_ragged_where_the_runtime_is(tiny_bundle: Bundle) -> None:
    assert isinstance(slot_batch(runtime(), slots=1), SlicedBatch)
    exact = open_runtime("cpu", tiny_bundle, exact_steps=True)
    assert isinstance(slot_batch(exact, slots=1), RaggedBatch)
    exact.close()


OPERATION = st.one_of(
    st.tuples(st.just("admit"), st.integers(1, 40), st.integers(1, 3)),
    st.tuples(st.just("step"), st.integers(1, 4), st.just(0)),
    st.tuples(st.just("cancel"), st.integers(0, 9), st.just(0)),
    st.tuples(st.just("finish"), st.integers(0, 9), st.just(0)),
)


@pytest.mark.parametrize("make", BATCHES)
@given(operations=st.lists(OPERATION, max_size=14))
def test_any_order_of_verbs_keeps_slots_and_tokens(make: Any, operations: list[tuple[str, int, int]]) -> None:
    batch = make(runtime(), slots=4)
    asked: dict[int, tuple[list[int], int]] = {}
    cancels: list[tuple[CancelToken, list[int]]] = []
    stopped: set[int] = set()
    events: list[TokenEvent] = []
    for verb, number, samples in operations:
        if verb == "admit" and batch.free_slots >= samples:
            params = GenerationParams(max_new_tokens=5, temperature=1.0, seed=1, n=samples)
            prompt = [1 + number % 7] * number
            cancels.append((CancelToken(), batch.admit(request(prompt, params), cancel=(token := CancelToken()))))
            cancels[-1] = (token, cancels[-1][1])
            asked |= {row: (prompt, place) for place, row in enumerate(cancels[-1][1])}
        elif verb == "step":
            for _ in range(number):
                events += batch.step(0.0)
        elif verb == "cancel" and number < len(cancels):
            cancels[number][0].cancel()
            stopped |= set(cancels[number][1])
        elif verb == "finish" and number in asked:
            batch.finish(number)
            stopped |= {row for _, rows in cancels if number in rows for row in rows}
        assert 0 <= batch.free_slots <= 4
    if batch.rows:
        events += to_the_end(batch)
    assert batch.free_slots == 4
    found = tokens(events)
    for row, (prompt, place) in asked.items():
        if row not in stopped:
            params = GenerationParams(max_new_tokens=5, temperature=1.0, seed=1, n=place + 1)
            assert found[row] == alone(prompt, params)[place]
