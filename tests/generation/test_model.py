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
from codegen_edge.generation.editing import suffix_stops
from codegen_edge.generation.model import Model

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


@pytest.mark.quiet
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


def test_samples_come_as_alternatives_of_the_first(model: Model) -> None:
    several = model.generate("def f", temperature=1.0, seed=11, max_new_tokens=10, n=3)
    single = model.generate("def f", temperature=1.0, seed=11, max_new_tokens=10)
    assert several.token_ids == single.token_ids
    assert len({each.token_ids for each in (several, *several.alternatives)}) == 3
    both = model.generate(["def f", "import os"], temperature=1.0, seed=11, max_new_tokens=10, n=2)
    assert both[0].token_ids == single.token_ids
    assert [len(each.alternatives) for each in both] == [1, 1]


def test_events_name_prompt_and_sample(model: Model) -> None:
    stream = model.stream(["def f", "import"], temperature=1.0, seed=1, max_new_tokens=2, n=2)
    assert {(event.row, event.sample) for event in stream} == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_beams_come_best_first(model: Model) -> None:
    best = model.generate("def hello", num_beams=4, n=3, max_new_tokens=12)
    scores = [each.score for each in (best, *best.alternatives)]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)  # type: ignore[type-var]
    assert best.text == model.tokenizer.decode(best.token_ids)
    with pytest.raises(InvalidInputError, match="use generate"):
        model.stream("a", num_beams=2)
    with pytest.raises(InvalidInputError, match="draft does not go with beam search"):
        model.generate("a", num_beams=2, draft="prompt-lookup")


def test_logprobs_are_kept_when_asked_for(model: Model) -> None:
    assert model.generate("def f", max_new_tokens=3).logprobs is None
    completion = model.generate("def f", max_new_tokens=3, top_logprobs=2)
    assert completion.logprobs is not None
    assert completion.top_logprobs is not None
    for token_id, logprob, top in zip(completion.token_ids, completion.logprobs, completion.top_logprobs, strict=True):
        assert top[0] == (token_id, logprob)
        assert len(top) == 2


def test_suffix_ends_the_text_where_it_is_met(model: Model) -> None:
    text = model.generate("def hello_world():", max_new_tokens=40).text
    middle = text[10:14]
    assert middle.strip()
    assert "\n" not in middle
    cut = model.generate("def hello_world():", max_new_tokens=40, suffix=middle)
    assert cut.text == text[: text.find(middle)]
    assert cut.finish_reason == "stop"
    with pytest.raises(InvalidInputError, match="blank"):
        model.generate("def f", suffix="\n  \n")


@pytest.mark.parametrize(
    ("suffix", "stops"),
    [
        ("    return x\r\n", ("    return x\n", "\n    return x\n")),
        ("\n\n    return x\nmore", ("\n\n    return x\n", "\n    return x\n")),
        (")\n", (")\n", "\n)\n")),
        ("\nreturn", ("\nreturn",)),
    ],
)
def test_stops_of_a_suffix(suffix: str, stops: tuple[str, ...]) -> None:
    assert suffix_stops(suffix) == stops


def test_drafts_change_no_token(model: Model, tiny_bundle: Bundle) -> None:
    with load_model(tiny_bundle.path) as drafter:
        settings: tuple[dict[str, Any], ...] = ({}, {"temperature": 0.7, "seed": 2})
        for params in settings:
            plain = model.generate(PROMPTS[0], max_new_tokens=40, **params)
            for draft in ("prompt-lookup", drafter):
                drafted = model.generate(PROMPTS[0], max_new_tokens=40, draft=draft, **params)
                assert drafted.token_ids == plain.token_ids
                assert 0 <= drafted.accepted_tokens <= drafted.drafted_tokens


def test_draft_of_another_tokenizer_is_refused(model: Model, trained_bundle: Bundle) -> None:
    with load_model(trained_bundle.path) as other, pytest.raises(InvalidInputError, match="another tokenizer"):
        model.generate("a", draft=other)
    with pytest.raises(InvalidInputError, match="draft must be"):
        model.generate("a", draft="guess")  # type: ignore[call-overload]


def test_deadline_ends_a_completion(model: Model) -> None:
    completion = model.generate("def f", max_new_tokens=100, max_seconds=1e-9, prefill_chunk=1)
    assert (completion.text, completion.token_ids, completion.finish_reason) == ("", (), "deadline")


def test_beams_of_a_batch_refuse_a_bad_prompt_before_the_first_search(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.runtime, "step", lambda *_, **__: pytest.fail("a prompt was searched"))
    with pytest.raises(InvalidInputError, match="prompt 1 is empty"):
        model.generate(["def f", ""], num_beams=2, max_new_tokens=4)
    with pytest.raises(ContextLengthError):
        model.generate(["def f", "x = 1\n" * 200], num_beams=2, max_new_tokens=4)
