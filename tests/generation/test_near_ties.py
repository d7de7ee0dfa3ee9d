"""Without exact steps a batch, a draft, a session or a chunk changes a token only where the scheme's own noise may."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.exactness import SCHEMES, changes_of, prompts_of, ways
from codegen_edge.bundle import Bundle
from codegen_edge.evaluation.parity.near_ties import is_near_tie, noise_on
from codegen_edge.generation import GenerationParams
from codegen_edge.generation.model import Model, load_model
from codegen_edge.quantization import QuantizeOptions, quantize_bundle
from codegen_edge.runtimes.backends.scripted import ScriptedRuntime

GREEDY = GenerationParams(max_new_tokens=24)
DOCUMENTS = [np.random.default_rng(0).integers(0, 4000, 120) for _ in range(6)]
SEEDED = GenerationParams(max_new_tokens=24, temperature=0.8, seed=11)


@pytest.fixture(scope="module", params=list(SCHEMES))
def model(
    request: pytest.FixtureRequest, trained_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Model]:
    bundle = trained_bundle
    if SCHEMES[request.param]:
        out = tmp_path_factory.mktemp("near-ties") / "bundle"
        options = QuantizeOptions(**{"method": "round", **SCHEMES[request.param]})
        bundle = quantize_bundle(trained_bundle, out, options, calibration_documents=DOCUMENTS)[0]
    with load_model(bundle.path, check="size") as opened:
        yield opened


@pytest.mark.parametrize("params", [GREEDY, SEEDED], ids=["greedy", "seeded"])
def test_every_change_is_a_near_tie(params: GenerationParams, model: Model) -> None:
    generating = ways(model, prompts_of(6))
    found = changes_of(model, prompts_of(6), params, {name: generate(params) for name, generate in generating.items()})
    assert all(counts["changed"] == counts["near_ties"] for counts in found.values()), found


def test_lead_of_more_than_twice_the_noise_is_no_tie() -> None:
    logits = np.array([1.0, 3.0, 2.5, -1.0], np.float32)
    assert is_near_tie(logits, 1, 2, 0.25)
    assert not is_near_tie(logits, 1, 2, 0.2)


def test_sample_may_change_to_the_ids_beside_it_only() -> None:
    logits = np.log(np.array([0.25, 0.25, 0.25, 0.25], np.float32))
    # 0.4999 is drawn as id 1, a hair below id 2.
    near = {second: is_near_tie(logits, 1, second, 1e-3, temperature=1.0, uniform=0.4999) for second in range(4)}
    assert near == {0: False, 1: True, 2: True, 3: False}
    assert is_near_tie(logits, 1, 0, 0.6, temperature=1.0, uniform=0.4999)  # odds of 1/3, times exp(1.2)
    assert not is_near_tie(logits, 1, 0, 0.6, temperature=4.0, uniform=0.4999)


def test_noise_is_what_the_steps_differ_by() -> None:
    def script(ids: tuple[int, ...]) -> np.ndarray:
        return np.full(8, float(len(ids)), np.float32)

    assert noise_on(ScriptedRuntime(script, vocab_size=8, eos_token_id=0), np.arange(1, 7))[0] == 0

    calls: list[int] = []

    def drifting(ids: tuple[int, ...]) -> np.ndarray:
        calls.append(1)
        return np.full(8, 0.0 if len(calls) <= 6 else 0.125, np.float32)

    noise, whole = noise_on(ScriptedRuntime(drifting, vocab_size=8, eos_token_id=0), np.arange(1, 7))
    assert noise == 0.125
    assert not whole.any()
