from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from codegen_edge.bundle import Bundle
from codegen_edge.cli import cli
from codegen_edge.errors import InvalidInputError, NumericsError
from codegen_edge.evaluation.quality.metrics import METRICS
from codegen_edge.evaluation.quality.perplexity import measure_perplexity
from codegen_edge.evaluation.quality.scoring import document_ids, log_sum_exp, negative_log_likelihood, teacher_forced
from codegen_edge.exporter import load_reference_model, open_checkpoint
from codegen_edge.runtimes import open_runtime
from codegen_edge.tokenizer import Tokenizer
from codegen_edge.workflows import evaluate

TEXT = "def add(a, b):\n    return a + b  # 世界 🌍\n" * 3


@pytest.fixture
def tokenizer(tiny_bundle: Bundle) -> Tokenizer:
    return Tokenizer(tiny_bundle.tokenizer_path)


def expected_nll(checkpoint: Path, token_ids: np.ndarray, first: int, start: int) -> float:
    """transformers' loss of token `first` + 1 and those after it, seen from token `start` on."""
    model = load_reference_model(open_checkpoint(checkpoint))
    with torch.inference_mode():
        logits = model(input_ids=torch.from_numpy(token_ids[None, start:-1])).logits[0, first - start :]
        return float(
            torch.nn.functional.cross_entropy(logits, torch.from_numpy(token_ids[first + 1 :]), reduction="sum")
        )


def test_short_text_costs_what_transformers_says(
    tiny_bundle: Bundle, tiny_checkpoint: Path, tokenizer: Tokenizer
) -> None:
    runtime = open_runtime("cpu", tiny_bundle)
    result = measure_perplexity(runtime, tokenizer, [TEXT, "", TEXT[:9]])
    expected = [expected_nll(tiny_checkpoint, document_ids(tokenizer, text), 0, 0) for text in (TEXT, TEXT[:9])]
    assert result.nll == pytest.approx(sum(expected), rel=1e-5)
    assert result.num_bytes == len(TEXT.encode()) + 9
    assert result.num_tokens == len(tokenizer.encode(TEXT)) + len(tokenizer.encode(TEXT[:9]))
    assert result.perplexity == pytest.approx(math.exp(result.nll / result.num_tokens))
    assert result.bits_per_byte == pytest.approx(result.nll / math.log(2) / result.num_bytes)


def test_long_text_is_read_in_windows_with_half_a_context_of_past(
    tiny_bundle: Bundle, tiny_checkpoint: Path, tokenizer: Tokenizer
) -> None:
    token_ids = document_ids(tokenizer, TEXT * 8)[:301]
    runtime = open_runtime("cpu", tiny_bundle)
    nll = sum(
        float(negative_log_likelihood(logits, targets).sum()) for targets, logits in teacher_forced(runtime, token_ids)
    )
    # A context of 128: 0…128 first, then 64 at a time on 64 of past.
    windows = [(0, 0, 128), (64, 128, 192), (128, 192, 256), (192, 256, 300)]
    expected = sum(expected_nll(tiny_checkpoint, token_ids[: end + 1], first, start) for start, first, end in windows)
    assert nll == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("length", [2, 3, 127, 128, 129, 130, 192, 193, 194, 500])
def test_every_token_is_predicted_once_and_in_order(length: int, tiny_bundle: Bundle) -> None:
    token_ids = np.random.default_rng(length).integers(0, 600, length)
    runtime = open_runtime("cpu", tiny_bundle)
    targets = np.concatenate([targets for targets, _ in teacher_forced(runtime, token_ids)])
    np.testing.assert_array_equal(targets, token_ids[1:])


def test_likelihoods_of_extreme_logits_are_finite_and_right() -> None:
    logits = np.array([[1000.0, 999.0, -1000.0], [-1e30, 0.0, 0.0]], np.float32)
    np.testing.assert_allclose(log_sum_exp(logits), [1000 + math.log1p(math.exp(-1)), math.log(2)])
    np.testing.assert_allclose(
        negative_log_likelihood(logits, np.array([1, 2])), [1 + math.log1p(math.exp(-1)), math.log(2)]
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(NumericsError, match="NaN or infinity"):
        negative_log_likelihood(np.array([[0.0, bad]], np.float32), np.array([0]))


def test_nothing_to_predict_is_refused(tiny_bundle: Bundle, tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidInputError, match="no text"):
        measure_perplexity(open_runtime("cpu", tiny_bundle), tokenizer, ["", ""])


def test_command_measures_files_and_prints_json(tiny_bundle: Bundle, tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "a.py").write_text(TEXT)
    arguments = ["evaluate", str(tiny_bundle.path), "--text", str(tmp_path / "a.py")]
    result = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).stdout)["perplexity"]
    direct = measure_perplexity(open_runtime("cpu", tiny_bundle), tokenizer, [TEXT])
    assert result["perplexity"] == pytest.approx(direct.perplexity)
    assert "bits per byte" in CliRunner().invoke(cli, arguments).stdout


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is empty"), (b"\xff\xfe", "is not UTF-8"), (None, "cannot be read")]
)
def test_command_refuses_bad_text_in_one_line(
    content: bytes | None, message: str, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "a.py").write_bytes(content)
    outcome = CliRunner().invoke(cli, ["evaluate", str(tiny_bundle.path), "--text", str(tmp_path / "a.py")])
    assert isinstance(outcome.exception, InvalidInputError)
    assert message in str(outcome.exception)


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_gives_a_line_and_json(metric: str, tiny_bundle: Bundle) -> None:
    stages: list[str] = []
    results = evaluate(
        tiny_bundle,
        metrics=[metric],
        reference=tiny_bundle,
        texts=[TEXT, TEXT * 2],
        max_tokens=60,
        on_stage=lambda stage, done, total: stages.append(stage),
    )
    fields = json.loads(json.dumps(results[metric].to_dict()))
    assert fields
    assert results[metric].summary
    assert "\n" not in results[metric].summary


def test_metric_that_compares_needs_a_reference(tiny_bundle: Bundle) -> None:
    with pytest.raises(InvalidInputError, match="damage compares with another bundle: give a reference"):
        evaluate(tiny_bundle, metrics=["damage"], texts=[TEXT])
    with pytest.raises(InvalidInputError, match="name at least one metric"):
        evaluate(tiny_bundle, metrics=[])
    with pytest.raises(InvalidInputError, match="no metric 'bleu'; there are: perplexity, damage"):
        evaluate(tiny_bundle, metrics=["bleu"])


def test_sample_of_the_texts_has_about_as_many_tokens_as_asked_for(tiny_bundle: Bundle) -> None:
    found = evaluate(tiny_bundle, texts=[TEXT * 20, TEXT * 10], max_tokens=300)["perplexity"].to_dict()
    assert 250 < found["num_tokens"] < 350
