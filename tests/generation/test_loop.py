from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from codegen_edge.errors import CancelledError, ContextLengthError, InvalidInputError, NumericsError
from codegen_edge.generation import CancelToken, GenerationLoop, GenerationParams, TokenEvent
from codegen_edge.runtimes.backends.scripted import ScriptedRuntime, script_of_tokens

VOCAB_SIZE = 32
EOS = 0


def hash_script(sequence: tuple[int, ...]) -> NDArray[np.float32]:
    """Logits that depend on every token of the sequence; the end of text is unlikely."""
    logits = np.random.default_rng(list(sequence)).normal(size=VOCAB_SIZE).astype(np.float32)
    logits[EOS] -= 2
    return logits


def scripted(tokens: Sequence[int], prompt_length: int = 1, **options: Any) -> ScriptedRuntime:
    script = script_of_tokens(tokens, VOCAB_SIZE, prompt_length)
    return ScriptedRuntime(script, vocab_size=VOCAB_SIZE, eos_token_id=EOS, **options)


def rows_of(events: list[TokenEvent]) -> dict[int, list[int]]:
    rows: dict[int, list[int]] = {}
    for event in events:
        assert event.token_id is not None
        rows.setdefault(event.row, []).append(event.token_id)
    return rows


def test_tokens_come_in_order_and_the_last_one_says_why() -> None:
    events = list(GenerationLoop(scripted([3, 4, 5]), [[1]], GenerationParams(max_new_tokens=3)))
    assert [(event.token_id, event.step) for event in events] == [(3, 0), (4, 1), (5, 2)]
    assert [event.finish_reason for event in events] == [None, None, "length"]


def test_end_of_text_ends_a_row() -> None:
    events = list(GenerationLoop(scripted([3, EOS, 5]), [[1]], GenerationParams(max_new_tokens=9)))
    assert [event.token_id for event in events] == [3, EOS]
    assert events[-1].finish_reason == "end_of_text"


def test_end_of_text_as_the_first_token_needs_no_decode_step() -> None:
    runtime = scripted([EOS])
    (event,) = GenerationLoop(runtime, [[1]], GenerationParams())
    assert event.finish_reason == "end_of_text"
    assert runtime.steps == [(1, 1)]


def test_full_context_ends_a_row() -> None:
    runtime = scripted([3], prompt_length=5, context_length=8)
    events = list(GenerationLoop(runtime, [[1] * 5], GenerationParams(max_new_tokens=100)))
    assert len(events) == 3
    assert events[-1].finish_reason == "context"


def test_prefill_is_one_step_and_each_token_another() -> None:
    runtime = scripted([3], prompt_length=4)
    list(GenerationLoop(runtime, [[1, 2, 3, 4]], GenerationParams(max_new_tokens=3)))
    assert runtime.steps == [(1, 4), (1, 1), (1, 1)]


@pytest.mark.parametrize("params", [GenerationParams(), GenerationParams(temperature=1.0, top_p=0.9, seed=5)])
def test_rows_of_a_ragged_batch_equal_their_single_runs(params: GenerationParams) -> None:
    prompts = [[1, 2, 3], [4], [5, 6], [7, 8, 9, 10, 11], [1, 2, 3]]

    def runtime() -> ScriptedRuntime:
        return ScriptedRuntime(hash_script, vocab_size=VOCAB_SIZE, context_length=64, eos_token_id=EOS)

    together = rows_of(list(GenerationLoop(runtime(), prompts, params)))
    for row, prompt in enumerate(prompts):
        assert together[row] == rows_of(list(GenerationLoop(runtime(), [prompt], params)))[0]
    assert len({len(tokens) for tokens in together.values()}) > 1  # rows ended at different steps


def test_rows_that_finish_leave_the_computation() -> None:
    def script(sequence: tuple[int, ...]) -> NDArray[np.float32]:
        logits = np.zeros(VOCAB_SIZE, np.float32)
        # Row r, whose prompt is [r], ends after r + 1 tokens.
        logits[EOS if len(sequence) - 1 >= sequence[0] else 9] = 1
        return logits

    runtime = ScriptedRuntime(script, vocab_size=VOCAB_SIZE, eos_token_id=EOS)
    list(GenerationLoop(runtime, [[3], [1], [2]], GenerationParams()))
    assert runtime.steps == [(3, 1), (3, 1), (2, 1), (1, 1)]


def test_row_that_the_caller_finishes_gets_no_further_token() -> None:
    loop = GenerationLoop(scripted([3, 4, 5]), [[1], [1]], GenerationParams(max_new_tokens=3))
    events = []
    for event in loop:
        events.append(event)
        if event.row == 0 and event.token_id == 4:
            loop.finish(0)
    assert rows_of(events) == {0: [3, 4], 1: [3, 4, 5]}


def test_unknown_rows_of_the_head_are_never_chosen() -> None:
    loop = GenerationLoop(scripted([30, 5]), [[1]], GenerationParams(max_new_tokens=4), num_allowed_ids=20)
    assert all(event.token_id is not None and event.token_id < 20 for event in loop)


@pytest.mark.parametrize(
    ("prompts", "error", "words"),
    [
        ([], InvalidInputError, "no prompt"),
        ([[]], InvalidInputError, "the prompt is empty"),
        ([[1], []], InvalidInputError, "prompt 1 is empty"),
        ([[1, -1]], InvalidInputError, "token id -1"),
        ([[VOCAB_SIZE]], InvalidInputError, f"token id {VOCAB_SIZE}, outside the vocabulary of {VOCAB_SIZE}"),
        ([[1] * 8], ContextLengthError, "8 tokens; the model's context of 8"),
        ([[1] * 9], ContextLengthError, "9 tokens; the model's context of 8"),
    ],
)
def test_bad_prompt_is_refused_before_any_step(prompts: list[list[int]], error: type[Exception], words: str) -> None:
    runtime = scripted([3], context_length=8)
    with pytest.raises(error, match=words):
        GenerationLoop(runtime, prompts, GenerationParams())
    assert runtime.steps == []


def test_nan_logits_name_the_step_and_leave_the_runtime_usable() -> None:
    def script(sequence: tuple[int, ...]) -> NDArray[np.float32]:
        return np.full(VOCAB_SIZE, np.nan if len(sequence) > 3 else 1, np.float32)

    runtime = ScriptedRuntime(script, vocab_size=VOCAB_SIZE, eos_token_id=31)
    with pytest.raises(NumericsError, match="step 3"):
        list(GenerationLoop(runtime, [[1]], GenerationParams()))
    assert len(list(GenerationLoop(runtime, [[1]], GenerationParams(max_new_tokens=2)))) == 2


def test_cancelled_token_stops_the_loop_before_its_first_step() -> None:
    cancel = CancelToken()
    cancel.cancel()
    runtime = scripted([3])
    with pytest.raises(CancelledError):
        list(GenerationLoop(runtime, [[1]], GenerationParams(), cancel=cancel))
    assert runtime.steps == []


def test_cancelling_from_another_thread_interrupts_the_step_in_flight() -> None:
    cancel, is_inside = CancelToken(), threading.Event()

    def block(step: int) -> None:
        if step == 2:
            is_inside.set()
            while not cancel.is_cancelled:
                time.sleep(0.001)

    def cancel_soon() -> None:
        is_inside.wait()
        cancel.cancel()

    runtime = scripted([3], before_step=block)
    thread = threading.Thread(target=cancel_soon)
    thread.start()
    events = []
    with pytest.raises(CancelledError):
        for event in GenerationLoop(runtime, [[1]], GenerationParams(), cancel=cancel):
            events.append(event)
    thread.join()
    assert len(events) == 2
    assert len(list(GenerationLoop(runtime, [[1]], GenerationParams(max_new_tokens=2)))) == 2
