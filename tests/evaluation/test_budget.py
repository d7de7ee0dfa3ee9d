from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from codegen_edge.bundle import Bundle
from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.quality.damage import Damage, measure_damage
from codegen_edge.evaluation.quality.scoring import document_ids
from codegen_edge.quantization import QuantizeOptions
from codegen_edge.runtimes import open_runtime
from codegen_edge.tokenizer import Tokenizer
from codegen_edge.workflows.budget import _fewest, measure_sensitivities, quantize_within_budget

Measure = Callable[[Bundle], Damage]

TEXTS = ["def f(x):\n    return x + 1\n" * 10, "class Stack:\n    pass\n" * 10]
OPTIONS = QuantizeOptions(scheme="int4", method="search")


@pytest.fixture
def measure(tiny_bundle: Bundle) -> Measure:
    tokenizer = Tokenizer(tiny_bundle.tokenizer_path)

    def damage(candidate: Bundle) -> Damage:
        runtimes = [open_runtime("cpu", each) for each in (candidate, tiny_bundle)]
        return measure_damage(runtimes[0], runtimes[1], tokenizer, TEXTS)

    return damage


def test_budget_is_met_by_the_fewest_matrices_and_told(tiny_bundle: Bundle, tmp_path: Path, measure: Measure) -> None:
    results = {}
    for budget in (10.0, 0.05, 0.01):
        out = tmp_path / str(budget)
        bundle, report = quantize_within_budget(
            tiny_bundle,
            out,
            OPTIONS,
            budget,
            calibration_texts=TEXTS,
            measure=measure,
        )
        told = json.loads((out / "quantization_report.json").read_text())["budget"]
        assert measure(bundle).mean_kl == pytest.approx(told["reached_kl"])
        assert told["reached_kl"] <= budget
        kept = set(told["kept_at_8_bits"])
        assert {tensor.name for tensor in report.tensors if tensor.form.startswith("int8")} == kept
        fewer = told["tried"].get(str(len(kept) - 1))
        assert fewer is None or fewer > budget
        results[budget] = (len(kept), bundle.size_bytes)
    assert results[10.0][0] == 0
    assert results[10.0] < results[0.05] < results[0.01]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_sensitivities_are_of_one_matrix_each(tiny_bundle: Bundle) -> None:
    tokenizer = Tokenizer(tiny_bundle.tokenizer_path)
    documents = [document_ids(tokenizer, text) for text in TEXTS]
    sensitivities = measure_sensitivities(tiny_bundle, OPTIONS, documents, tokenizer, TEXTS)
    assert len({each.name for each in sensitivities}) == len(sensitivities) == 10
    assert all(0 < each.mean_kl < 2 for each in sensitivities)
    (head,) = [each for each in sensitivities if each.name == "lm_head.weight"]
    assert head.extra_bytes == 640 * 64 // 2


def test_budget_that_cannot_be_met_says_what_was_reached(tiny_bundle: Bundle, tmp_path: Path, measure: Measure) -> None:
    with pytest.raises(InvalidInputError, match=r"1e-09 nats cannot be met: with every matrix at 8 bits .* is \d"):
        quantize_within_budget(
            tiny_bundle,
            tmp_path / "out",
            OPTIONS,
            1e-9,
            calibration_texts=TEXTS,
            measure=measure,
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("budget", [0.0, -1.0, float("nan"), float("inf")])
def test_budget_must_be_a_number_above_0(budget: float, tiny_bundle: Bundle, tmp_path: Path, measure: Measure) -> None:
    with pytest.raises(InvalidInputError, match="budget_kl must be a number above 0"):
        quantize_within_budget(
            tiny_bundle,
            tmp_path / "out",
            OPTIONS,
            budget,
            calibration_texts=TEXTS,
            measure=measure,
        )


def test_budget_goes_with_int4_only(tiny_bundle: Bundle, tmp_path: Path, measure: Measure) -> None:
    with pytest.raises(InvalidInputError, match="goes with int4, not int8"):
        quantize_within_budget(
            tiny_bundle,
            tmp_path / "out",
            QuantizeOptions(scheme="int8"),
            1.0,
            calibration_texts=TEXTS,
            measure=measure,
        )


@pytest.mark.parametrize("needed", range(9))
def test_bisection_finds_the_fewest_and_has_tried_it(needed: int) -> None:
    asked = []

    def is_enough(count: int) -> bool:
        asked.append(count)
        return count >= needed

    assert _fewest(8, is_enough) == needed
    assert needed in asked or needed == 8  # that eight are enough is known before
    assert len(asked) <= 1 + np.ceil(np.log2(9))
