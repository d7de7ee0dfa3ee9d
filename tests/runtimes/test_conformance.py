"""What every runtime must do. A runtime is covered by standing in `RUNTIMES` below."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from codegen_edge.bundle import Bundle
from codegen_edge.errors import BackendError, CancelledError, ContextLengthError, InvalidInputError
from codegen_edge.exporter import load_reference_model, open_checkpoint
from codegen_edge.runtimes import RUNTIMES as REGISTERED
from codegen_edge.runtimes import KVCache, Runtime, TokenIds, open_runtime
from codegen_edge.runtimes.backends.reference import ReferenceRuntime
from codegen_edge.runtimes.backends.scripted import ScriptedRuntime
from codegen_edge.runtimes.backends.tensorrt import TensorRTRuntime
from codegen_edge.runtimes.registry import BUILT_RUNTIMES, PROVING_RUNTIMES
from tests.runtimes.gpu import GpuBundles
from tests.runtimes.stand_ins import StreamingHost, fake_library

# Steps of one runtime over the same tokens, fed differently: float32 rounding only.
CLOSE = 2e-5
HALF_CLOSE = 6e-2  # the same in half precision, over logits of some units


def hash_script(sequence: tuple[int, ...]) -> NDArray[np.float32]:
    """Logits that depend on every token of the sequence."""
    return np.random.default_rng(list(sequence)).normal(size=640).astype(np.float32)


# Beside the registered ones: the logic of `tensorrt` over a stand-in of its library, which needs no GPU.
STAND_IN = "tensorrt (stand-in)"
EXACT = "cpu (exact steps)"


@pytest.fixture(params=[*REGISTERED, EXACT, STAND_IN, "reference", "scripted"])
def runtime(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    gpu_bundles: GpuBundles,
    tiny_bundle: Bundle,
    static_bundle: Bundle,
    engine_bundle: Bundle,
    tiny_checkpoint: Path,
) -> Iterator[Runtime]:
    made: Runtime
    if request.param in BUILT_RUNTIMES:
        bundles = {"cuda": tiny_bundle, "tensorrt": static_bundle}
        made = gpu_bundles.open(request.param, bundles[request.param])
        monkeypatch.setitem(globals(), "CLOSE", HALF_CLOSE)
    elif request.param == STAND_IN:
        made = TensorRTRuntime(engine_bundle, fake_library(), StreamingHost())
    elif request.param == EXACT:
        made = open_runtime("cpu", tiny_bundle, exact_steps=True)
    elif request.param == "scripted":
        made = ScriptedRuntime(hash_script, vocab_size=640, context_length=128)
    elif request.param == "reference":
        checkpoint = open_checkpoint(tiny_checkpoint)
        made = ReferenceRuntime(load_reference_model(checkpoint), checkpoint.model)
    else:
        bundle = static_bundle if request.param == PROVING_RUNTIMES["tensorrt"] else tiny_bundle
        made = open_runtime(request.param, bundle)
    yield made
    made.close()


def row_of(*token_ids: int) -> TokenIds:
    return np.array([token_ids], np.int64)


TOKENS = (5, 300, 17, 611, 42, 42, 7, 128, 255)


def full_forward(runtime: Runtime, tokens: tuple[int, ...] = TOKENS) -> NDArray[np.float32]:
    """[T, V] of one step over all tokens."""
    logits: NDArray[np.float32] = runtime.step(row_of(*tokens), runtime.new_cache(1, len(tokens)), all_logits=True)[0]
    return logits


def assert_close(actual: NDArray[np.float32], expected: NDArray[np.float32], what: str) -> None:
    difference = np.abs(actual - expected)
    steps = np.flatnonzero((difference > CLOSE).any(axis=-1)).tolist()
    assert difference.max() <= CLOSE, (
        f"{what}: max {difference.max():.2g}, mean {difference.mean():.2g}, differing steps {steps}"
    )


def test_runtime_meets_the_protocol(runtime: Runtime) -> None:
    assert isinstance(runtime, Runtime)
    logits = full_forward(runtime)
    assert logits.shape == (len(TOKENS), runtime.config.vocab_size)
    assert logits.dtype == np.float32


def test_cached_step_equals_full_forward(runtime: Runtime) -> None:
    cache = runtime.new_cache(1, len(TOKENS))
    steps = [runtime.step(row_of(token_id), cache)[0] for token_id in TOKENS]
    assert_close(np.stack(steps), full_forward(runtime), "one token at a time")
    assert cache.lengths.tolist() == [len(TOKENS)]


@pytest.mark.parametrize("chunk", [2, 3, 8])
def test_chunked_prefill_equals_full_forward(runtime: Runtime, chunk: int) -> None:
    cache = runtime.new_cache(1, len(TOKENS))
    parts = [
        runtime.step(row_of(*TOKENS[start : start + chunk]), cache, all_logits=True)[0]
        for start in range(0, len(TOKENS), chunk)
    ]
    assert_close(np.concatenate(parts), full_forward(runtime), f"chunks of {chunk}")


def test_last_logits_are_the_last_of_all(runtime: Runtime) -> None:
    last = runtime.step(row_of(*TOKENS), runtime.new_cache(1, len(TOKENS)))
    assert last.shape == (1, runtime.config.vocab_size)
    assert_close(last[0], full_forward(runtime)[-1], "last position")


@pytest.mark.parametrize("all_logits", [False, True])
def test_rows_of_a_ragged_batch_equal_their_single_runs(runtime: Runtime, all_logits: bool) -> None:
    rows = [TOKENS, TOKENS[:4], (9,), TOKENS[2:8]]
    counts = np.array([len(row) for row in rows], np.int64)
    token_ids = np.zeros((len(rows), counts.max()), np.int64)
    for index, row in enumerate(rows):
        token_ids[index, : len(row)] = row
    cache = runtime.new_cache(len(rows), 16)
    logits = runtime.step(token_ids, cache, counts=counts, all_logits=all_logits)
    followers = np.array([[1], [2], [3], [4]], np.int64)
    decoded = runtime.step(followers, cache)
    for index, row in enumerate(rows):
        alone = full_forward(runtime, (*row, int(followers[index, 0])))
        actual = logits[index, : len(row)] if all_logits else logits[index]
        assert_close(actual, alone[:-1] if all_logits else alone[-2], f"row {index}, prefill")
        assert_close(decoded[index], alone[-1], f"row {index}, decode")
    assert cache.lengths.tolist() == [len(row) + 1 for row in rows]


def test_several_tokens_onto_a_ragged_past_equal_full_forward(runtime: Runtime) -> None:
    cache = runtime.new_cache(2, 16)
    runtime.step(np.array([[5, 300, 17], [9, 0, 0]], np.int64), cache, counts=np.array([3, 1]))
    logits = runtime.step(np.array([[611, 42], [300, 0]], np.int64), cache, counts=np.array([2, 1]))
    assert_close(logits[0], full_forward(runtime, (5, 300, 17, 611, 42))[-1], "row 0")
    assert_close(logits[1], full_forward(runtime, (9, 300))[-1], "row 1")


def test_rewound_row_forgets(runtime: Runtime) -> None:
    cache = runtime.new_cache(1, 16)
    runtime.step(row_of(5, 300, 17, 611), cache)
    cache.rewind(0, 2)
    logits = runtime.step(row_of(42), cache)
    assert_close(logits[0], full_forward(runtime, (5, 300, 42))[-1], "after rewind")
    with pytest.raises(InvalidInputError):
        cache.rewind(0, 4)


def test_kept_rows_go_on_as_if_alone(runtime: Runtime) -> None:
    cache = runtime.new_cache(3, 16)
    runtime.step(np.array([[5, 6], [7, 8], [9, 10]], np.int64), cache)
    cache.select([0, 2])
    logits = runtime.step(np.array([[11], [12]], np.int64), cache)
    assert_close(logits[0], full_forward(runtime, (5, 6, 11))[-1], "row 0")
    assert_close(logits[1], full_forward(runtime, (9, 10, 12))[-1], "row 2")
    assert cache.lengths.tolist() == [3, 3]


@pytest.mark.parametrize("order", [[2, 0, 1], [1, 1, 0, 2, 1], [0, 0], [2]])
def test_selected_rows_go_on_as_if_alone(runtime: Runtime, order: list[int]) -> None:
    """Rows change places, are repeated and leave; a repeated row is a copy of its own."""
    rows = [(5, 6, 21), (7, 8), (9,)]
    cache = runtime.new_cache(3, 16)
    token_ids = np.array([[5, 6, 21], [7, 8, 0], [9, 0, 0]], np.int64)
    runtime.step(token_ids, cache, counts=np.array([3, 2, 1]))
    cache.select(order)
    followers = list(range(30, 30 + len(order)))
    logits = runtime.step(np.array([[token_id] for token_id in followers], np.int64), cache)
    again = runtime.step(np.array([[41]] * len(order), np.int64), cache)
    for index, row in enumerate(order):
        alone = full_forward(runtime, (*rows[row], followers[index], 41))
        assert_close(logits[index], alone[-2], f"row {index}")
        assert_close(again[index], alone[-1], f"row {index}, next")
    assert cache.lengths.tolist() == [len(rows[row]) + 2 for row in order]


def test_selected_rows_may_share_their_beginning(runtime: Runtime) -> None:
    cache = runtime.new_cache(1, 16)
    runtime.step(row_of(5, 300), cache)
    cache.select([0, 0, 0])
    runtime.step(np.array([[1], [2], [3]], np.int64), cache)
    cache.select([2, 0, 2], 2)
    logits = runtime.step(np.array([[4], [4], [6]], np.int64), cache)
    for index, tail in enumerate([(3, 4), (1, 4), (3, 6)]):
        assert_close(logits[index], full_forward(runtime, (5, 300, *tail))[-1], f"row {index}")


def test_joined_rows_go_on_as_if_alone(runtime: Runtime) -> None:
    cache, others = runtime.new_cache(1, 8), runtime.new_cache(2, 16)
    runtime.step(row_of(5, 300, 17), cache)
    runtime.step(np.array([[7, 8], [9, 10]], np.int64), others)
    cache.join(others)
    assert cache.capacity == 16
    late = runtime.new_cache(1, 8)
    runtime.step(row_of(42), late)
    cache.join(late)
    logits = runtime.step(np.array([[1], [2], [3], [4]], np.int64), cache)
    for index, row in enumerate([(5, 300, 17, 1), (7, 8, 2), (9, 10, 3), (42, 4)]):
        assert_close(logits[index], full_forward(runtime, row)[-1], f"row {index}")


def test_rows_that_are_named_join_and_the_capacity_stays(runtime: Runtime) -> None:
    cache, others = runtime.new_cache(1, 8), runtime.new_cache(2, 16)
    runtime.step(row_of(5, 300, 17), cache)
    runtime.step(np.array([[7, 8], [9, 10]], np.int64), others)
    cache.join(others, [1])
    assert (cache.capacity, cache.lengths.tolist(), others.lengths.tolist()) == (8, [3, 2], [2, 2])
    logits = runtime.step(np.array([[1], [3]], np.int64), cache)
    assert_close(logits[1], full_forward(runtime, (9, 10, 3))[-1], "the row that joined")
    # The other cache goes on by itself.
    logits = runtime.step(np.array([[2], [4]], np.int64), others)
    assert_close(logits[1], full_forward(runtime, (9, 10, 4))[-1], "the row that was copied")
    with pytest.raises(InvalidInputError, match="holds more than the cache's capacity of 2"):
        runtime.new_cache(1, 2).join(others, [0])


def test_row_that_was_read_can_be_written_elsewhere(runtime: Runtime) -> None:
    cache, other = runtime.new_cache(2, 8), runtime.new_cache(1, 16)
    runtime.step(np.array([[5, 300, 17], [7, 8, 9]], np.int64), cache)
    tensors = cache.read_row(1)
    runtime.step(np.array([[1], [1]], np.int64), cache)  # what was read is a copy
    other.write_row(0, tensors)
    assert other.lengths.tolist() == [3]
    assert_close(runtime.step(row_of(42), other)[0], full_forward(runtime, (7, 8, 9, 42))[-1], "after writing")
    with pytest.raises(InvalidInputError, match="do not fit"):
        runtime.new_cache(1, 2).write_row(0, tensors)


def test_full_cache_is_refused_and_stays_usable(runtime: Runtime) -> None:
    cache = runtime.new_cache(1, 3)
    runtime.step(row_of(5, 300), cache)
    with pytest.raises(ContextLengthError, match="4 tokens .* capacity of 3"):
        runtime.step(row_of(1, 2), cache)
    assert_close(runtime.step(row_of(17), cache)[0], full_forward(runtime, TOKENS[:3])[-1], "afterwards")


@pytest.mark.parametrize("token_id", [-1, 640, 2**40])
def test_id_outside_the_vocabulary_is_refused(runtime: Runtime, token_id: int) -> None:
    with pytest.raises(InvalidInputError, match=f"{token_id} is outside the vocabulary of 640"):
        runtime.step(row_of(1, token_id), runtime.new_cache(1, 4))


@pytest.mark.parametrize(
    ("token_ids", "counts"),
    [
        (np.zeros((1, 0), np.int64), None),
        (np.zeros((1, 2), np.int32), None),
        (np.zeros(2, np.int64), None),
        (np.zeros((2, 2), np.int64), None),
        (np.zeros((1, 2), np.int64), np.array([0])),
        (np.zeros((1, 2), np.int64), np.array([3])),
        (np.zeros((1, 2), np.int64), np.array([1, 1])),
    ],
)
def test_malformed_step_is_refused(runtime: Runtime, token_ids: TokenIds, counts: NDArray[np.int64] | None) -> None:
    with pytest.raises(InvalidInputError):
        runtime.step(token_ids, runtime.new_cache(1, 4), counts=counts)


def test_interrupted_step_is_cancelled_and_the_cache_stays_usable(runtime: Runtime) -> None:
    cache = runtime.new_cache(1, 8)
    runtime.step(row_of(5, 300), cache)
    cache.interrupt()
    with pytest.raises(CancelledError):
        runtime.step(row_of(17), cache)
    assert cache.lengths.tolist() == [2]
    assert_close(runtime.step(row_of(17), cache)[0], full_forward(runtime, TOKENS[:3])[-1], "afterwards")


def test_step_in_flight_is_cancelled(runtime: Runtime) -> None:
    """Interrupted after it began: a runtime that looks only before a step would go on to its end."""
    token_ids = np.tile(np.arange(100), (8, 1))
    seconds = []
    for _ in range(3):  # the first one may load or compile something
        started = time.perf_counter()
        runtime.step(token_ids, runtime.new_cache(8, 101), all_logits=True)
        seconds.append(time.perf_counter() - started)
    delay = min(seconds) / 2
    for _ in range(60):
        cache = runtime.new_cache(8, 101)
        has_begun, outcome = threading.Event(), list[str]()

        def work(cache: KVCache = cache, has_begun: threading.Event = has_begun, outcome: list[str] = outcome) -> None:
            has_begun.set()
            try:
                runtime.step(token_ids, cache, all_logits=True)
            except CancelledError:
                outcome.append("cancelled")
            else:
                outcome.append("done")

        thread = threading.Thread(target=work)
        thread.start()
        has_begun.wait()
        time.sleep(delay)
        cache.interrupt()
        thread.join()
        if outcome == ["cancelled"]:
            assert cache.lengths.tolist() == [0] * 8
            assert_close(
                runtime.step(token_ids[:, :4], cache)[0], full_forward(runtime, (0, 1, 2, 3))[-1], "afterwards"
            )
            return
        # Too late. Earlier next time, but well behind what is looked at before a step.
        delay = max(0.8 * delay, min(seconds) / 10)
    pytest.fail("no step was cancelled in flight")


def test_threads_with_caches_of_their_own_do_not_disturb_each_other(runtime: Runtime) -> None:
    expected = full_forward(runtime)
    failures: list[str] = []

    def work() -> None:
        for _ in range(5):
            cache = runtime.new_cache(1, len(TOKENS))
            steps = np.stack([runtime.step(row_of(token_id), cache)[0] for token_id in TOKENS])
            if np.abs(steps - expected).max() > CLOSE:
                failures.append(threading.current_thread().name)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_closing_twice_is_allowed_and_stepping_afterwards_is_not(runtime: Runtime) -> None:
    cache = runtime.new_cache(1, 4)
    runtime.close()
    runtime.close()
    with pytest.raises(BackendError, match="closed"):
        runtime.step(row_of(1), cache)


def test_returned_logits_belong_to_the_caller(runtime: Runtime) -> None:
    cache = runtime.new_cache(1, 4)
    first = runtime.step(row_of(5), cache)
    before = first.copy()
    runtime.step(row_of(6), cache)
    assert np.array_equal(first, before)
