"""Beam search against transformers' own, token for token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from codegen_edge.errors import CancelledError, ContextLengthError, InvalidInputError, NumericsError
from codegen_edge.exporter import load_reference_model, locate_checkpoint, open_checkpoint
from codegen_edge.generation import CancelToken, GenerationParams
from codegen_edge.generation.beams import _largest, beam_search
from codegen_edge.runtimes import Runtime
from codegen_edge.runtimes.backends.reference import ReferenceRuntime
from codegen_edge.runtimes.backends.scripted import ScriptedRuntime, script_of_tokens
from codegen_edge.runtimes.registry import open_runtime
from codegen_edge.tokenizer import Tokenizer

TEXTS = ("def add(a, b):\n", "import os\n\n", "class Stack:\n    def push(self", "for i in range(")
SETTINGS: list[dict[str, Any]] = [
    {},
    {"length_penalty": 0.0},
    {"length_penalty": 2.0, "early_stopping": True},
    {"length_penalty": -1.0},
    {"early_stopping": "never"},
    {"early_stopping": "never", "length_penalty": 0.5},
    {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3},
    {"min_new_tokens": 6},
]


def expected_of(reference: Any, ids: list[int], eos: list[int], **options: Any) -> list[list[int]]:
    sequences = reference.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
        do_sample=False,
        eos_token_id=eos,
        pad_token_id=eos[0],
        **options,
    )
    return [sequence[len(ids) :].tolist() for sequence in sequences]


def is_same(beam: tuple[int, ...], expected: list[int], pad: int) -> bool:
    """transformers pads the shorter ones."""
    return list(beam) == expected[: len(beam)] and set(expected[len(beam) :]) <= {pad}


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("num_beams", [3, pytest.param(5, marks=pytest.mark.long)])
@pytest.mark.parametrize("which", ["random", "trained"])
def test_beams_equal_those_of_transformers(
    which: str, num_beams: int, settings: dict[str, Any], tiny_checkpoint: Path, reference_of: Any
) -> None:
    runtime, reference, tokenizer = reference_of(which)
    eos = runtime.config.eos_token_id
    for text in TEXTS:
        ids = tokenizer.encode(text)
        # An id that comes early, so that beams do end.
        ends = sorted({eos, int(np.argsort(runtime.step(np.array([ids]), runtime.new_cache(1, 128))[0])[-4])})
        stop_ids = tuple(token_id for token_id in ends if token_id != eos)
        params = GenerationParams(num_beams=num_beams, n=num_beams, max_new_tokens=14, stop_ids=stop_ids, **settings)
        options = {key: value for key, value in settings.items() if key != "min_new_tokens"}
        if "min_new_tokens" in settings:
            options["min_new_tokens"] = settings["min_new_tokens"]
        expected = expected_of(
            reference,
            ids,
            [eos, *stop_ids],
            num_beams=num_beams,
            num_return_sequences=num_beams,
            max_new_tokens=14,
            **options,
        )
        beams = beam_search(runtime, ids, params)
        found = [beam.token_ids for beam in beams]
        for beam, other in zip(found, expected, strict=False):
            assert is_same(beam, other, eos), (text, found, expected)
        assert len(found) == len([other for other in expected if set(other) != {eos}] or expected)


@pytest.fixture(scope="module")
def reference_of(tiny_checkpoint: Path) -> Any:
    made: dict[str, Any] = {}

    def open_reference(which: str) -> Any:
        if which not in made:
            folder = tiny_checkpoint if which == "random" else locate_checkpoint("codegen-5M-mono").folder
            checkpoint = open_checkpoint(folder)
            model = load_reference_model(checkpoint)
            made[which] = ReferenceRuntime(model, checkpoint.model), model, Tokenizer(folder / "tokenizer.json")
        return made[which]

    return open_reference


def test_one_beam_is_greedy(trained_bundle: Any, reference_of: Any) -> None:
    """num_beams 1 is the loop's; a search of one beam within it gives the same."""
    _, reference, tokenizer = reference_of("trained")
    ids = tokenizer.encode(TEXTS[0])
    runtime = open_runtime("cpu", trained_bundle)
    beams = beam_search(runtime, ids, GenerationParams(max_new_tokens=20))
    runtime.close()
    assert list(beams[0].token_ids) == expected_of(reference, ids, [runtime.config.eos_token_id], max_new_tokens=20)[0]


def test_cpu_runtime_finds_the_beams_of_the_reference(trained_bundle: Any, reference_of: Any) -> None:
    runtime: Runtime = open_runtime("cpu", trained_bundle)
    reference, _, tokenizer = reference_of("trained")
    params = GenerationParams(num_beams=4, n=4, max_new_tokens=24)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        found = beam_search(runtime, ids, params)
        expected = beam_search(reference, ids, params)
        assert [beam.token_ids for beam in found] == [beam.token_ids for beam in expected]
        np.testing.assert_allclose([beam.score for beam in found], [beam.score for beam in expected], atol=1e-3)
    runtime.close()


def scripted(**options: Any) -> ScriptedRuntime:
    return ScriptedRuntime(script_of_tokens([3, 4, 5], 32, 1), vocab_size=32, eos_token_id=0, **options)


def test_why_a_beam_ended_is_told() -> None:
    (beam,) = beam_search(scripted(), [1], GenerationParams(num_beams=2, max_new_tokens=3))
    assert (beam.token_ids, beam.finish_reason) == ((3, 4, 5), "length")
    (beam,) = beam_search(scripted(), [1], GenerationParams(num_beams=2, max_new_tokens=3, stop_ids=(4,)))
    assert (beam.token_ids, beam.finish_reason) == ((3, 4), "stop_id")
    (beam,) = beam_search(scripted(context_length=3), [1], GenerationParams(num_beams=2))
    assert (beam.token_ids, beam.finish_reason) == ((3, 4), "context")


def test_rows_of_the_head_without_a_token_are_never_taken() -> None:
    beams = beam_search(scripted(), [1], GenerationParams(num_beams=3, n=3, max_new_tokens=2), num_allowed_ids=4)
    assert all(max(beam.token_ids) < 4 for beam in beams)


def test_finished_beams_are_kept_where_nothing_can_go_on() -> None:
    def end_after_two(ids: Sequence[int], scores: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.where(np.arange(32) == 0, scores, -np.inf).astype(np.float32) if len(ids) >= 3 else scores

    params = GenerationParams(
        num_beams=3, n=3, max_new_tokens=9, early_stopping="never", processors=(end_after_two,), length_penalty=1.0
    )
    beams = beam_search(scripted(), [1], params)
    assert beams
    assert all(beam.token_ids[-1] == 0 and len(beam.token_ids) <= 3 for beam in beams)


def test_beams_that_grow_out_of_none_are_not_given() -> None:
    allowed = tuple(token_id for token_id in range(32) if token_id not in (3, 4))
    params = GenerationParams(num_beams=5, n=5, max_new_tokens=1, suppressed_ids=allowed)
    assert len(beam_search(scripted(), [1], params)) == 2


def test_bad_input_is_refused() -> None:
    params = GenerationParams(num_beams=2)
    with pytest.raises(InvalidInputError, match="empty"):
        beam_search(scripted(), [], params)
    with pytest.raises(ContextLengthError):
        beam_search(scripted(context_length=4), [1] * 4, params)
    with pytest.raises(InvalidInputError, match="forbid every id"):
        beam_search(scripted(), [1], GenerationParams(num_beams=2, suppressed_ids=tuple(range(32))))
    broken = ScriptedRuntime(lambda _: np.full(32, np.nan, np.float32), vocab_size=32)
    with pytest.raises(NumericsError, match="step 0"):
        beam_search(broken, [1], params)
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(CancelledError):
        beam_search(scripted(), [1], params, cancel=cancel)


@given(
    st.lists(st.one_of(st.just(-np.inf), st.integers(-3, 3).map(float)), min_size=1, max_size=300), st.integers(1, 40)
)
def test_largest_are_those_of_a_stable_sort(values: list[float], count: int) -> None:
    scores = np.array(values, np.float32)
    expected = np.argsort(-scores, kind="stable")[:count]
    np.testing.assert_array_equal(_largest(scores, count), expected)
