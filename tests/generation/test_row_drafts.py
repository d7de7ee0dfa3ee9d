"""Drafts for several rows of a step: no token changes, and drafts are fed only where they pay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from codegen_edge.bundle import Bundle
from codegen_edge.generation import GenerationLoop, GenerationParams, Request
from codegen_edge.generation.batch import RunningBatch
from codegen_edge.generation.sampling import TokenChooser
from codegen_edge.generation.slots import RaggedBatch
from codegen_edge.generation.speculation import RowsSpeculator, RowText
from codegen_edge.runtimes import open_runtime
from codegen_edge.runtimes.backends.scripted import ScriptedRuntime

VOCAB_SIZE, EOS = 24, 0
CHOOSER = TokenChooser(GenerationParams(), VOCAB_SIZE)
PARAMS = {
    "greedy": GenerationParams(max_new_tokens=40),
    "sampled": GenerationParams(max_new_tokens=40, temperature=0.8, top_p=0.95, seed=3),
    "rules": GenerationParams(max_new_tokens=40, repetition_penalty=1.2, no_repeat_ngram_size=4, min_new_tokens=20),
    "stop id": GenerationParams(max_new_tokens=40, temperature=1.0, seed=1, stop_ids=(5,)),
}


class RaggedRuntime(ScriptedRuntime):
    """Says that rows of any lengths share its runs."""

    free_drafts = 1
    runs_ragged = True


def script(sequence: tuple[int, ...]) -> NDArray[np.float32]:
    """Depends on the last two tokens, so that text repeats itself and drafts are often right."""
    logits = np.random.default_rng(list(sequence[-2:])).normal(size=VOCAB_SIZE).astype(np.float32) * 2
    logits[EOS] -= 3
    return logits


def ragged_runtime(**options: Any) -> RaggedRuntime:
    return RaggedRuntime(script, vocab_size=VOCAB_SIZE, eos_token_id=EOS, **options)


def alone(prompt: Sequence[int], params: GenerationParams) -> list[tuple[int | None, str | None]]:
    plain = ScriptedRuntime(script, vocab_size=VOCAB_SIZE, eos_token_id=EOS)
    return [(event.token_id, event.finish_reason) for event in GenerationLoop(plain, [prompt], params)]


@pytest.fixture
def every_draft_is_fed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RowsSpeculator, "_counts", lambda self, found, acceptances: list(found))


@pytest.mark.usefixtures("every_draft_is_fed")
@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)
def test_rows_get_what_they_get_alone(params: GenerationParams) -> None:
    prompts = [[first, 2, 3, first, 2] * length for first, length in ((1, 1), (4, 3), (6, 2), (9, 1))]
    runtime = ragged_runtime()
    batch = RunningBatch(runtime, slots=4)
    rows = dict(zip(batch.add(prompts, params), prompts, strict=True))
    found: dict[int, list[tuple[int | None, str | None]]] = {}
    while batch.rows:
        for event in batch.step():
            found.setdefault(event.row, []).append((event.token_id, event.finish_reason))
    assert found == {row: alone(prompt, params) for row, prompt in rows.items()}
    if params is PARAMS["greedy"]:
        assert len(runtime.steps) - len(prompts) < 0.65 * max(map(len, found.values()))


@pytest.mark.usefixtures("every_draft_is_fed")
@given(
    rows=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 20), st.integers(0, 3)), min_size=1, max_size=7),
    left=st.sets(st.integers(0, 6)),
)
def test_rows_that_come_and_go_get_what_they_get_alone(rows: list[tuple[int, int, int]], left: set[int]) -> None:
    params = GenerationParams(max_new_tokens=12, temperature=0.5, seed=2)
    batch = RaggedBatch(ragged_runtime(context_length=40), slots=3)
    prompts: dict[int, list[int]] = {}
    found: dict[int, list[int | None]] = {}
    waiting = list(rows)
    while waiting or batch.rows:
        if waiting and batch.free_slots:
            first, length, steps = waiting.pop()
            prompt = [1 + (first + place) % 3 for place in range(length)]
            prompts |= dict.fromkeys(batch.admit(Request.of([prompt], params, ragged_runtime().config)), prompt)
        else:
            steps = 1
        for _ in range(steps):
            for event in batch.step():
                found.setdefault(event.row, []).append(event.token_id)
                if event.row in left and len(found[event.row]) == 5:
                    batch.finish(event.row)
    for row, prompt in prompts.items():
        expected = [token_id for token_id, _ in alone(prompt, params)]
        assert found[row] == (expected[:5] if row in left else expected)
    assert batch.free_slots == 3


@pytest.mark.usefixtures("every_draft_is_fed")
def test_exact_runtime_gives_the_same_bits_with_drafts_in_every_row(tiny_bundle: Bundle) -> None:
    params = GenerationParams(max_new_tokens=12, top_logprobs=0)
    runtime = open_runtime("cpu", tiny_bundle, exact_steps=True)
    prompts = [[5, 6, 7, 5, 6], [9, 9, 9], [3, 4] * 6]
    try:
        together = list(GenerationLoop(runtime, prompts, params))
        for number, prompt in enumerate(prompts):
            own = [(event.token_id, event.logprob) for event in together if event.row == number]
            assert own == [(event.token_id, event.logprob) for event in GenerationLoop(runtime, [prompt], params)]
    finally:
        runtime.close()


def texts(*ids: list[int]) -> list[RowText]:
    return [RowText(number, row, 10, CHOOSER) for number, row in enumerate(ids)]


REPEATING = [1, 2, 3, 4, 5, 6, 7, 8] * 3
NEW = list(range(1, 20))


def steps(speculator: RowsSpeculator, seconds: float, per_draft: float) -> Iterator[list[int]]:
    """Steps of a row whose drafts stand and of one without drafts; the numbers of drafts."""
    row = list(REPEATING)
    while True:
        drafts = speculator.draft(texts(row, NEW))
        counts = [len(draft) for draft in drafts]
        speculator.record_step(2, sum(counts), seconds + sum(counts) * per_draft)
        if counts[0]:
            speculator.record_outcome(0, counts[0], counts[0])
        row += [row[-8 + place % 8] for place in range(1 + counts[0])]
        yield counts


def test_drafts_are_fed_where_they_pay() -> None:
    cheap = steps(RowsSpeculator(), 1.0, 0.05)
    first = [next(cheap) for _ in range(60)]
    assert first[:3] == [[0, 0]] * 3  # what a plain step costs is measured first
    assert first[-1][0] >= 5
    assert not any(count for _, count in first)


def test_drafts_are_left_where_they_cost_too_much() -> None:
    dear = steps(RowsSpeculator(), 1.0, 0.9)
    fed = sum(sum(next(dear)) for _ in range(200))
    assert fed < 20


def test_plain_steps_are_measured_again() -> None:
    cheap = steps(RowsSpeculator(), 1.0, 0.05)
    counts = [sum(next(cheap)) for _ in range(200)]
    assert 0 in counts[10:]


def test_text_that_begins_to_repeat_gets_drafts_again() -> None:
    speculator = RowsSpeculator()
    for _ in range(40):
        speculator.record_step(2, 0, 1.0)
        speculator.record_outcome(0, 0, 0)
    row = [1, 2, 3, 1, 2]
    for wrong in range(40):  # drafts that never stand
        drafts = speculator.draft(texts([*row], NEW))
        speculator.record_outcome(0, len(drafts[0]), 0)
        row += [30 + wrong, 1, 2]
    assert not speculator.draft(texts([*row], NEW))[0]
    row += REPEATING * 3
    for _ in range(30):  # not fed, but compared with what comes
        speculator.draft(texts([*row], NEW))
        row.append(row[-8])
    assert speculator.draft(texts([*row], NEW))[0]
