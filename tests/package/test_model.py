from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from codegen_edge import CancelToken, load_model, open_bundle
from codegen_edge.bundle import Bundle
from codegen_edge.errors import BundleError, CancelledError, ContextLengthError, InvalidInputError
from codegen_edge.exporter import load_reference_model, open_checkpoint
from codegen_edge.model import Model

PROMPTS = ("def hello_world():", "import os\n", "class Stack:\n    def push(self", "x = 1\n\treturn")


@pytest.fixture(scope="module")
def model(tiny_bundle: Bundle) -> Model:
    return load_model(tiny_bundle.path)


def test_greedy_tokens_equal_those_of_transformers(model: Model, tiny_checkpoint: Path) -> None:
    reference = load_reference_model(open_checkpoint(tiny_checkpoint))
    # Rows of the LM head that no token has are never chosen by us; tell transformers the same.
    suppressed = list(range(model.tokenizer.vocab_size, model.runtime.config.vocab_size))
    for prompt in PROMPTS:
        ids = torch.tensor([model.tokenizer.encode(prompt)])
        expected = reference.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=64,
            do_sample=False,
            suppress_tokens=suppressed,
            pad_token_id=model.runtime.config.eos_token_id,
        )[0, ids.shape[1] :]
        assert model.generate(prompt, max_new_tokens=64).token_ids == tuple(expected.tolist())


def test_rows_of_a_batch_equal_their_single_runs(model: Model) -> None:
    together = model.generate(PROMPTS, max_new_tokens=24)
    for prompt, completion in zip(PROMPTS, together, strict=True):
        assert completion.token_ids == model.generate(prompt, max_new_tokens=24).token_ids
        assert completion.prompt_tokens == len(model.tokenizer.encode(prompt))


def test_sampling_is_repeatable_by_its_seed(model: Model) -> None:
    first = model.generate("def f", temperature=1.0, seed=11, max_new_tokens=20)
    assert first.token_ids == model.generate("def f", temperature=1.0, seed=11, max_new_tokens=20).token_ids
    assert first.token_ids != model.generate("def f", temperature=1.0, seed=12, max_new_tokens=20).token_ids


def test_stream_joins_to_the_completion(model: Model) -> None:
    stream = model.stream(PROMPTS, max_new_tokens=24)
    with pytest.raises(InvalidInputError, match="not ended"):
        _ = stream.completions
    texts = [""] * len(PROMPTS)
    for event in stream:
        texts[event.row] += event.text
    assert texts == [completion.text for completion in stream.completions]
    assert texts == [completion.text for completion in model.generate(PROMPTS, max_new_tokens=24)]


def test_stop_string_cuts_the_text_and_ends_the_row(model: Model) -> None:
    whole = model.generate(PROMPTS[0], max_new_tokens=32)
    middle = len(whole.text) // 2
    stop = whole.text[middle : middle + 3]
    cut = model.generate(PROMPTS[0], max_new_tokens=32, stop=(stop,))
    assert cut.finish_reason == "stop"
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.token_ids == whole.token_ids[: len(cut.token_ids)]
    assert len(cut.token_ids) < len(whole.token_ids)


def test_timings_are_there(model: Model) -> None:
    completion = model.generate("def f", max_new_tokens=8)
    assert completion.prefill_ms > 0
    assert completion.decode_tokens_per_second > 0
    assert model.generate("def f", max_new_tokens=1).decode_tokens_per_second == 0


def test_prompt_beyond_the_context_names_both_numbers(model: Model) -> None:
    prompt = "é" * 200
    count = len(model.tokenizer.encode(prompt))
    with pytest.raises(ContextLengthError, match=f"{count} tokens.*128"):
        model.generate(prompt)


@pytest.mark.parametrize("prompt", ["", [], ["a", ""], 5, None, b"a", ["a", 5]])
def test_prompt_that_is_empty_or_no_text_is_refused(model: Model, prompt: Any) -> None:
    with pytest.raises(InvalidInputError):
        model.generate(prompt)


def test_unknown_parameter_is_an_error(model: Model) -> None:
    with pytest.raises(TypeError, match="temp"):
        model.generate("a", temp=0.2)


def test_generation_is_cancelled_from_another_thread(model: Model) -> None:
    cancel = CancelToken()
    stream = model.stream("def f", max_new_tokens=100, cancel=cancel)
    events = iter(stream)
    next(events)
    thread = threading.Thread(target=cancel.cancel)
    thread.start()
    thread.join()
    started = time.perf_counter()
    with pytest.raises(CancelledError):
        list(events)
    assert time.perf_counter() - started < 1
    assert model.generate("def f", max_new_tokens=2).finish_reason == "length"


def test_bundle_for_features_is_refused(feature_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="feature-extraction"):
        load_model(feature_bundle.path)


def test_closed_model_frees_its_runtime(tiny_bundle: Bundle) -> None:
    with load_model(tiny_bundle.path, check="size", threads=1) as model:
        model.generate("a", max_new_tokens=1)
    assert open_bundle(tiny_bundle.path).manifest == tiny_bundle.manifest
