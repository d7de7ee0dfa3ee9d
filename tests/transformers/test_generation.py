"""What `generate` of transformers does, token for token as with transformers' own model."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AsyncTextIteratorStreamer,
    LogitsProcessorList,
    MaxTimeCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
    TextStreamer,
    WatermarkingConfig,
)

from tests.transformers.conftest import PROMPTS, Pair

# The order of float32 sums differs between onnxruntime and torch; logits are of some units.
CLOSE = 1e-4

GREEDY: dict[str, dict[str, Any]] = {
    "max_new_tokens": {"max_new_tokens": 24},
    "max_length": {"max_length": 16},
    "to the end of the context": {"max_length": 128, "eos_token_id": None, "pad_token_id": 0},
    "without a cache": {"max_new_tokens": 10, "use_cache": False},
    "min_new_tokens": {"min_new_tokens": 8, "eos_token_id": [314, 484], "max_new_tokens": 12},
    "several ends": {"eos_token_id": [614, 623], "max_new_tokens": 12},
    "prompt in chunks": {"prefill_chunk_size": 2, "max_new_tokens": 12},
    "repetition_penalty": {"repetition_penalty": 1.7, "max_new_tokens": 24},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2, "max_new_tokens": 24},
    "bad_words_ids": {"bad_words_ids": [[314], [484, 614]], "max_new_tokens": 12},
    "suppress_tokens": {"suppress_tokens": list(range(300, 640)), "max_new_tokens": 12},
    "begin_suppress_tokens": {"begin_suppress_tokens": [314], "max_new_tokens": 12},
    "sequence_bias": {"sequence_bias": [[[314], -9.0], [[98], 4.0]], "max_new_tokens": 12},
    "forced_eos_token_id": {"forced_eos_token_id": 7, "max_new_tokens": 8},
    "exponential_decay": {"exponential_decay_length_penalty": (4, 1.4), "max_new_tokens": 16},
    "guidance_scale": {"guidance_scale": 1.5, "max_new_tokens": 12},
    "watermark": {"watermarking_config": WatermarkingConfig(bias=3.0), "max_new_tokens": 12},
    "prompt lookup": {"prompt_lookup_num_tokens": 3, "max_new_tokens": 32},
}
SAMPLED: dict[str, dict[str, Any]] = {
    "plain": {},
    "temperature, top_k, top_p": {"temperature": 0.7, "top_k": 20, "top_p": 0.9},
    "min_p": {"min_p": 0.05},
    "typical_p": {"typical_p": 0.8},
    "epsilon_cutoff": {"epsilon_cutoff": 0.002},
    "eta_cutoff": {"eta_cutoff": 0.002},
    "num_return_sequences": {"num_return_sequences": 3},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
}
BEAMS: dict[str, dict[str, Any]] = {
    "beams": {"num_beams": 4},
    "several returned": {"num_beams": 4, "num_return_sequences": 3},
    "short texts": {"num_beams": 3, "length_penalty": -1.0, "eos_token_id": [185, 98, 316]},
    "early_stopping": {"num_beams": 3, "early_stopping": True, "eos_token_id": [185, 98, 316]},
    "never early": {"num_beams": 3, "early_stopping": "never", "eos_token_id": [185, 98, 316]},
    "sampled": {"num_beams": 3, "do_sample": True, "top_k": 30},
    "bans": {"num_beams": 3, "bad_words_ids": [[314]], "no_repeat_ngram_size": 2},
    "without a cache": {"num_beams": 2, "use_cache": False},
}


def both(pair: Pair, inputs: Any, **options: Any) -> tuple[Any, Any]:
    """What the drop-in generates, and what transformers' own model does, from the same random numbers."""
    outputs = []
    for model in (pair.edge, pair.torch):
        torch.manual_seed(17)
        if model is pair.torch:  # 5.0 refuses it for CodeGen; it changes no token
            options.pop("prefill_chunk_size", None)
        outputs.append(model.generate(**inputs, **copy.deepcopy(options)))
    return outputs[0], outputs[1]


def assert_same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.dtype == expected.dtype
    assert actual.tolist() == expected.tolist()


@pytest.fixture
def inputs(tokenizer: Any) -> Any:
    return tokenizer(PROMPTS[0], return_tensors="pt")


@pytest.fixture
def left(tokenizer: Any) -> Any:
    return tokenizer(list(PROMPTS), return_tensors="pt", padding=True, padding_side="left")


@pytest.mark.parametrize("options", GREEDY.values(), ids=GREEDY)
def test_greedy_search_is_equal(options: dict[str, Any], pair: Pair, inputs: Any) -> None:
    actual, expected = both(pair, inputs, do_sample=False, **options)
    assert_same(actual, expected)
    assert actual.shape[1] > inputs["input_ids"].shape[1]


@pytest.mark.parametrize("options", SAMPLED.values(), ids=SAMPLED)
def test_sampling_is_equal(options: dict[str, Any], pair: Pair, inputs: Any) -> None:
    assert_same(*both(pair, inputs, do_sample=True, max_new_tokens=20, **options))


@pytest.mark.parametrize("options", BEAMS.values(), ids=BEAMS)
def test_beam_search_is_equal(options: dict[str, Any], pair: Pair, inputs: Any) -> None:
    assert_same(*both(pair, inputs, max_new_tokens=12, **options))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_cache": False},
        {"eos_token_id": [185, 98, 316, 535]},
        {"do_sample": True, "num_return_sequences": 2},
        {"num_beams": 3, "num_return_sequences": 2, "eos_token_id": [185, 98]},
        {"repetition_penalty": 1.5, "prefill_chunk_size": 3},
    ],
    ids=str,
)
def test_left_padded_batch_is_equal(options: dict[str, Any], pair: Pair, left: Any) -> None:
    assert_same(*both(pair, left, max_new_tokens=12, **options))


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"use_cache": False}, {"prefill_chunk_size": 3}], ids=str)
def test_each_row_of_a_padded_batch_goes_on_as_it_does_alone(
    options: dict[str, Any], pair: Pair, padded: Any, tokenizer: Any
) -> None:
    """transformers' own model reads the padding where it stands right; the drop-in does not."""
    options |= {"max_new_tokens": 12, "min_new_tokens": 12}
    generated = pair.edge.generate(**padded, **options)[:, padded["input_ids"].shape[1] :]
    options.pop("prefill_chunk_size", None)
    for row, prompt in zip(generated, PROMPTS, strict=True):
        alone = pair.torch.generate(**tokenizer(prompt, return_tensors="pt"), **options)
        assert row.tolist() == alone[0, -12:].tolist()


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"prompt_lookup_num_tokens": 2}], ids=str)
def test_scores_and_logits_are_close(options: dict[str, Any], pair: Pair, inputs: Any) -> None:
    options |= {"max_new_tokens": 10, "return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    actual, expected = both(pair, inputs, **options)
    assert_same(actual.sequences, expected.sequences)
    for name in ("scores", "logits"):
        mine, theirs = torch.stack(actual[name]), torch.stack(expected[name])
        finite = torch.isfinite(theirs)
        assert torch.equal(finite, torch.isfinite(mine))
        assert float((mine - theirs)[finite].abs().max()) < CLOSE
    transitions = [
        model.compute_transition_scores(output.sequences, output.scores, getattr(output, "beam_indices", None))
        for model, output in ((pair.edge, actual), (pair.torch, expected))
    ]
    assert float((transitions[0] - transitions[1]).abs().max()) < CLOSE


def test_begins_with_the_first_token_where_no_prompt_is_given(pair: Pair) -> None:
    assert_same(*both(pair, {}, max_new_tokens=6))


def test_own_logits_processor_and_prefix_function_are_obeyed(pair: Pair, left: Any) -> None:
    def only_even(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[:, 1::2] = -torch.inf
        return scores

    actual, expected = both(pair, left, max_new_tokens=8, logits_processor=LogitsProcessorList([only_even]))
    assert_same(actual, expected)
    assert not (actual[:, left["input_ids"].shape[1] :] % 2).any()

    def small(row: int, input_ids: torch.Tensor) -> list[int]:
        return list(range(row, 100))

    assert_same(*both(pair, left, max_new_tokens=8, prefix_allowed_tokens_fn=small))


def test_own_stopping_criterion_ends_each_row_by_itself(pair: Pair, left: Any) -> None:
    def is_multiple_of_five(input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return input_ids[:, -1] % 5 == 0

    criteria = StoppingCriteriaList([is_multiple_of_five, MaxTimeCriteria(60.0)])
    assert_same(*both(pair, left, max_new_tokens=16, stopping_criteria=criteria))


def test_stop_strings_end_a_text(pair: Pair, inputs: Any, tokenizer: Any) -> None:
    new = pair.torch.generate(**inputs, max_new_tokens=24)[0, inputs["input_ids"].shape[1] :]
    letter = next(letter for letter in tokenizer.decode(new) if letter.isascii() and letter.isprintable())
    actual, expected = both(pair, inputs, max_new_tokens=24, stop_strings=[letter], tokenizer=tokenizer)
    assert_same(actual, expected)
    assert actual.shape[1] < inputs["input_ids"].shape[1] + 24


def test_streamers_get_the_same_text(
    pair: Pair, inputs: Any, tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = tokenizer.decode(pair.torch.generate(**inputs, max_new_tokens=12)[0])
    pair.edge.generate(**inputs, max_new_tokens=12, streamer=TextStreamer(tokenizer))
    assert capsys.readouterr().out == expected + "\n"

    streamer = TextIteratorStreamer(tokenizer, timeout=60.0)
    thread = Thread(target=pair.edge.generate, kwargs={**inputs, "max_new_tokens": 12, "streamer": streamer})
    thread.start()
    assert "".join(streamer) == expected
    thread.join()

    async def read() -> str:
        streamer = AsyncTextIteratorStreamer(tokenizer, timeout=60.0)
        thread = Thread(target=pair.edge.generate, kwargs={**inputs, "max_new_tokens": 12, "streamer": streamer})
        thread.start()
        text = "".join([piece async for piece in streamer])
        thread.join()
        return text

    assert asyncio.run(read()) == expected


@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("drafted_by", ["the drop-in", "torch", "itself"])
@pytest.mark.parametrize("main", ["edge", "torch"])
def test_assisted_decoding_is_equal(
    main: str, drafted_by: str, do_sample: bool, pair: Pair, drafters: Pair, inputs: Any
) -> None:
    options = {"do_sample": do_sample, "max_new_tokens": 24}
    model = getattr(pair, main)
    assistant, reference = {
        "the drop-in": (drafters.edge, drafters.torch),
        "torch": (drafters.torch, drafters.torch),
        "itself": (model, pair.torch),
    }[drafted_by]
    torch.manual_seed(23)
    expected = pair.torch.generate(**inputs, **options, **drafts_of(reference))
    torch.manual_seed(23)
    assert_same(model.generate(**inputs, **options, **drafts_of(assistant)), expected)
    if not do_sample:
        assert_same(expected, pair.torch.generate(**inputs, **options))


def drafts_of(assistant: Any) -> dict[str, Any]:
    """As an option of `generate`: four tokens at a time, whatever was accepted before."""
    assistant.generation_config.num_assistant_tokens = 4
    assistant.generation_config.num_assistant_tokens_schedule = "constant"
    return {"assistant_model": assistant}


def test_generation_goes_on_from_its_past(pair: Pair, tokenizer: Any) -> None:
    """Two turns of a batch: the second reads only what is new."""
    turns = []
    for model in (pair.edge, pair.torch):
        ids, mask = (tokenizer(PROMPTS[0], return_tensors="pt")[name] for name in ("input_ids", "attention_mask"))
        first = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=8, return_dict_in_generate=True)
        past = next(value for name, value in first.items() if name in ("cache", "past_key_values"))
        assert past.get_seq_length() == first.sequences.shape[1] - 1
        ids = torch.cat([first.sequences, tokenizer("\nimport os", return_tensors="pt")["input_ids"]], dim=1)
        past_name = "cache" if "cache" in first else "past_key_values"
        second = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, **{past_name: past}
        )
        turns.append(second)
        assert_same(second, model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8))
    assert_same(*turns)


def test_beams_of_a_batch_read_each_prompt_once(pair: Pair, left: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[tuple[int, ...]] = []
    step: Callable[..., Any] = pair.edge.runtime.step

    def counted(token_ids: Any, *args: Any, **kwargs: Any) -> Any:
        rows.append(np.shape(token_ids))
        return step(token_ids, *args, **kwargs)

    monkeypatch.setattr(pair.edge.runtime, "step", counted)
    assert_same(*both(pair, left, num_beams=4, max_new_tokens=4))
    assert [shape[0] for shape in rows] == [3, 12, 12, 12]
