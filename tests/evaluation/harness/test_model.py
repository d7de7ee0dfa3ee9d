"""The model class in lm-eval itself; `benchmarks/lm_eval.py` compares it with transformers."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from codegen_edge.bundle import Bundle
from codegen_edge.errors import InvalidInputError, RuntimeUnavailableError
from codegen_edge.evaluation import harness
from codegen_edge.generation.model import Model, load_model

needs_lm_eval = pytest.mark.skipif(
    find_spec("lm_eval") is None, reason="lm-eval is not installed; it needs an environment of its own"
)
PROMPTS = ("def read_lines(path):\n", "import os\n", "class Stack:\n    def push")


@pytest.fixture(scope="module")
def lm(tiny_bundle: Bundle) -> Iterator[Any]:
    model = harness.CodegenEdgeLM(str(tiny_bundle.path), batch_size="2", threads=1, check="size")
    yield model
    model.close()


@pytest.fixture(scope="module")
def model(tiny_bundle: Bundle) -> Iterator[Model]:
    with load_model(tiny_bundle.path, threads=1, check="size") as opened:
        yield opened


def instances(kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [
        Instance(request_type=kind, doc={}, arguments=each, idx=number)  # type: ignore[arg-type, unused-ignore]
        for number, each in enumerate(arguments)
    ]


def test_without_lm_eval_the_class_is_an_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "find_spec", lambda _: None)
    with pytest.raises(RuntimeUnavailableError, match=r"lm-eval is not installed: pip install .*\[lm-eval\]"):
        _ = harness.CodegenEdgeLM
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        harness.nothing  # noqa: B018


def test_command_without_lm_eval_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harness, "find_spec", lambda _: None)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("codegen_edge.evaluation.harness.__main__", run_name="__main__")
    assert ended.value.code == 3
    assert capsys.readouterr().err.startswith("error: lm-eval is not installed")


@needs_lm_eval
def test_importing_the_package_registers_the_model() -> None:
    from lm_eval.api.registry import get_model

    assert get_model("codegen-edge") is harness.CodegenEdgeLM


@needs_lm_eval
def test_log_likelihoods_are_those_of_the_tokens(lm: Any, model: Model) -> None:
    pairs = [("def f(x):", "\n    return"), ("def f(x):", " pass"), ("", "import os"), ("import os", "\nimport sys\n")]
    found = lm.loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True)
    for (context, continuation), (value, is_greedy) in zip(pairs, found, strict=True):
        start = model.tokenizer.encode(context) if context else [model.runtime.config.eos_token_id]
        ids = model.tokenizer.encode(context + continuation)[0 if not context else len(start) :]
        forced = dict(enumerate(ids))
        given = model.tokenizer.decode(start)
        completion = model.generate(given, max_new_tokens=len(ids), forced_ids=forced, top_logprobs=0)
        assert completion.logprobs is not None
        assert value == pytest.approx(sum(completion.logprobs), abs=1e-3)
        assert isinstance(is_greedy, bool)


@needs_lm_eval
def test_rolling_log_likelihood_reads_windows_of_the_context(lm: Any, model: Model) -> None:
    short, long = "import os\n", "".join(PROMPTS) * 12
    assert len(model.tokenizer.encode(long)) > 2 * model.runtime.config.context_length
    first, second = lm.loglikelihood_rolling(instances("loglikelihood_rolling", [(short,), (long,)]), disable_tqdm=True)
    ((value, _),) = lm.loglikelihood(instances("loglikelihood", [("", short)]), disable_tqdm=True)
    assert first == pytest.approx(value, abs=1e-3)
    assert second < first
    assert lm.loglikelihood_rolling(instances("loglikelihood_rolling", [("",)]), disable_tqdm=True) == [0.0]


@needs_lm_eval
def test_greedy_texts_are_those_of_generate(lm: Any, model: Model) -> None:
    asked = [(prompt, {"until": ["\n\n", "("], "max_gen_toks": 12, "do_sample": False}) for prompt in PROMPTS]
    texts = lm.generate_until(instances("generate_until", asked), disable_tqdm=True)
    expected = [model.generate(prompt, max_new_tokens=12, stop=["\n\n", "("]).text for prompt in PROMPTS]
    assert texts == expected


@needs_lm_eval
def test_long_and_empty_contexts_are_generated_from(lm: Any, model: Model) -> None:
    long = "".join(PROMPTS) * 12
    texts = lm.generate_until(
        instances("generate_until", [(long, {"max_gen_toks": 8}), ("", {"max_gen_toks": 4})]), disable_tqdm=True
    )
    cut = model.generate(long, max_new_tokens=8, prompt_overflow="cut-left").text
    assert texts[0] == cut
    assert isinstance(texts[1], str)


@needs_lm_eval
def test_samples_repeat_with_the_seed_and_differ_between_repeats(tiny_bundle: Bundle) -> None:
    asked = [(PROMPTS[0], {"temperature": 1.0, "max_gen_toks": 12})] * 4

    def sampled(batch_size: int) -> list[str]:
        model = harness.CodegenEdgeLM(str(tiny_bundle.path), batch_size=batch_size, threads=1, seed=5, check="size")
        texts: list[str] = model.generate_until(instances("generate_until", asked), disable_tqdm=True)
        model.close()
        return texts

    first = sampled(1)
    assert len(set(first)) == 4
    assert sampled(4) == first


@needs_lm_eval
def test_cached_requests_are_answered_from_the_cache(lm: Any, tmp_path: Path) -> None:
    from lm_eval.api.model import CachingLM

    cached = CachingLM(lm, str(tmp_path / "cache.db"))
    requests = instances("loglikelihood", [(PROMPTS[0], "    return"), (PROMPTS[1], "x")])
    first = cached.loglikelihood(requests)
    assert [tuple(each) for each in cached.loglikelihood(requests)] == [tuple(each) for each in first]


@needs_lm_eval
def test_options_are_checked(tiny_bundle: Bundle) -> None:
    with pytest.raises(InvalidInputError, match="batch_size must be a number"):
        harness.CodegenEdgeLM(str(tiny_bundle.path), batch_size="many")
    with pytest.raises(InvalidInputError, match="has no num_gpus"):
        harness.CodegenEdgeLM(str(tiny_bundle.path), check="size", num_gpus=1)


@needs_lm_eval
def test_device_that_lm_eval_gives_to_every_model_is_passed_over(tiny_bundle: Bundle) -> None:
    from lm_eval.api.registry import get_model

    arguments = {"bundle": str(tiny_bundle.path), "check": "size", "threads": 1}
    made = get_model("codegen-edge").create_from_arg_obj(arguments, {"batch_size": "4", "device": "cuda:0"})
    assert made.batch_size == 4
    assert made.get_model_info()["runtime"] == "cpu"
    made.close()


@needs_lm_eval
def test_command_line_of_lm_eval_knows_the_model(tmp_path: Path) -> None:
    arguments = ["run", "--model", "codegen-edge", "--model_args", f"bundle={tmp_path}", "--tasks", "none"]
    command = [sys.executable, "-m", "codegen_edge.evaluation.harness", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert "none" in done.stderr
