"""Single passes and the past between them, compared with transformers' own model."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from codegen_edge.errors import ContextLengthError, InvalidInputError
from codegen_edge.runtimes.backends.scripted import ScriptedRuntime
from codegen_edge.transformers import CodeGenEdgeCache, CodeGenEdgeForCausalLM
from codegen_edge.transformers.causal_lm import CACHE_NAME
from tests.transformers.conftest import Pair
from tests.transformers.test_generation import CLOSE

IDS = torch.tensor([[5, 300, 17, 611, 42, 42, 7], [9, 30, 1, 61, 2, 4, 70]])


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype == torch.float32
    difference = (actual - expected).abs()
    assert float(difference.max()) < CLOSE, f"max {difference.max():.2g}, mean {difference.mean():.2g}"


@torch.no_grad()
def logits_of(model: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    logits: torch.Tensor = model(*args, **kwargs).logits
    return logits


@pytest.mark.parametrize("kept", [0, 1, 3, torch.tensor([0, 4])], ids=str)
def test_logits_are_equal(kept: Any, pair: Pair) -> None:
    assert_close(logits_of(pair.edge, IDS, logits_to_keep=kept), logits_of(pair.torch, IDS, logits_to_keep=kept))


def test_output_is_a_tuple_where_one_is_asked_for(pair: Pair) -> None:
    logits, past = pair.edge(IDS, return_dict=False)
    assert_close(logits, logits_of(pair.torch, IDS))
    assert isinstance(past, CodeGenEdgeCache)
    assert pair.edge(IDS, use_cache=False, return_dict=False)[1:] == ()


def test_logits_of_random_padding_in_random_steps_are_equal(pair: Pair) -> None:
    """Padding anywhere, steps of any size, and rows that get padding only; transformers counts the positions."""
    random = np.random.default_rng(0)
    for _ in range(12):
        rows, columns = int(random.integers(1, 5)), int(random.integers(2, 14))
        ids = torch.from_numpy(random.integers(0, 640, (rows, columns)))
        mask = torch.from_numpy((random.random((rows, columns)) < random.choice([0.4, 0.8, 1.0])).astype(np.int64))
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        expected = logits_of(pair.torch, ids, attention_mask=mask, position_ids=positions)
        kept = int(random.integers(0, 4))
        cache, start = pair.edge.new_cache(), 0
        while start < columns:
            stop = min(columns, start + int(random.integers(1, 6)))
            actual = logits_of(
                pair.edge, ids[:, start:stop], attention_mask=mask[:, :stop], past_key_values=cache, logits_to_keep=kept
            )
            width = actual.shape[1]
            real = mask[:, stop - width : stop] == 1
            difference = (actual - expected[:, stop - width : stop])[real].abs()
            assert not real.any() or float(difference.max()) < CLOSE
            start = stop
        assert cache.get_seq_length() == columns


def test_row_that_ends_in_padding_has_the_logits_of_its_last_token(pair: Pair) -> None:
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0]])
    alone = logits_of(pair.torch, IDS[1:, :3])[:, -1]
    assert_close(logits_of(pair.edge, IDS, attention_mask=mask, logits_to_keep=1)[1], alone)
    assert_close(logits_of(pair.edge, IDS, attention_mask=mask)[1:, -1], alone)


@pytest.mark.parametrize("shift", [0, 2])
def test_positions_may_count_tokens_or_columns(shift: int, pair: Pair) -> None:
    mask = torch.ones_like(IDS)
    mask[1, :2] = 0
    positions = torch.stack([torch.arange(7), torch.arange(7) - 2 + shift]).clamp(min=0)
    expected = logits_of(pair.torch, IDS, attention_mask=mask, position_ids=positions)
    actual = logits_of(pair.edge, IDS, attention_mask=mask, position_ids=positions)
    assert_close(actual[0], expected[0])
    assert_close(actual[1, 2:], expected[1, 2:])


def test_past_is_cropped_selected_and_repeated_as_transformers_does_it(pair: Pair) -> None:
    pasts: dict[str, Any] = {"edge": pair.edge.new_cache(), "torch": DynamicCache()}
    outputs: dict[str, list[torch.Tensor]] = {"edge": [], "torch": []}
    for name, past in pasts.items():
        model = getattr(pair, name)
        outputs[name].append(logits_of(model, IDS, **{CACHE_NAME: past}))
        past.crop(-3)
        assert past.get_seq_length() == 4
        outputs[name].append(logits_of(model, IDS[:, 4:6], **{CACHE_NAME: past}))
        past.batch_repeat_interleave(2)
        outputs[name].append(logits_of(model, torch.tensor([[1], [2], [3], [4]]), **{CACHE_NAME: past}))
        past.reorder_cache(torch.tensor([3, 3, 0, 1]))
        outputs[name].append(logits_of(model, torch.tensor([[5], [6], [7], [8]]), **{CACHE_NAME: past}))
        past.batch_select_indices(torch.tensor([2, 0]))
        outputs[name].append(logits_of(model, torch.tensor([[9, 10], [11, 12]]), **{CACHE_NAME: past}))
        assert past.get_seq_length() == 10
    for actual, expected in zip(outputs["edge"], outputs["torch"], strict=True):
        assert_close(actual, expected)
    pasts["edge"].reset()
    assert_close(logits_of(pair.edge, IDS[:1], past_key_values=pasts["edge"]), logits_of(pair.torch, IDS[:1]))


def test_copy_of_a_past_goes_on_by_itself(pair: Pair) -> None:
    past = pair.edge.new_cache()
    pair.edge(IDS[:, :5], past_key_values=past)
    fork = copy.deepcopy(past)
    pair.edge(IDS[:, :1], past_key_values=past)
    assert (past.get_seq_length(), fork.get_seq_length()) == (6, 5)
    assert_close(logits_of(pair.edge, IDS[:, 5:], past_key_values=fork), logits_of(pair.torch, IDS)[:, 5:])
    assert copy.deepcopy(pair.edge.new_cache()).get_seq_length() == 0


def test_past_grows_beyond_its_first_capacity_up_to_the_context(pair: Pair) -> None:
    past = pair.edge.new_cache(4)
    ids = torch.arange(128)[None] + 3
    steps = [logits_of(pair.edge, part, past_key_values=past) for part in torch.split(ids, 31, dim=1)]
    assert_close(torch.cat(steps, dim=1), logits_of(pair.torch, ids))
    with pytest.raises(ContextLengthError, match="129 tokens, the model's context holds 128"):
        pair.edge(ids[:, :1], past_key_values=past)
    assert past.get_seq_length() == 128


def test_any_runtime_may_stand_below(pair: Pair) -> None:
    runtime = ScriptedRuntime(
        lambda ids: np.eye(640, dtype=np.float32)[(ids[-1] + 1) % 640], vocab_size=640, context_length=128
    )
    model = CodeGenEdgeForCausalLM(pair.edge.config, runtime)
    generated = model.generate(torch.tensor([[5], [50]]), max_new_tokens=4)
    assert generated.tolist() == [[5, 6, 7, 8, 9], [50, 51, 52, 53, 54]]
    assert "rows=0" in repr(model.new_cache())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"input_ids": None}, "input_ids are missing"),
        ({"input_ids": IDS[0]}, "input_ids must be a non-empty tensor"),
        ({"input_ids": IDS.float()}, "input_ids must be a non-empty tensor of integers"),
        ({"input_ids": IDS + 639}, "outside the vocabulary of 640"),
        ({"input_ids": IDS.to("meta")}, "input_ids is on meta; pass it on cpu"),
        ({"input_ids": IDS, "attention_mask": torch.ones(2, 7, device="meta")}, "attention_mask is on meta"),
        ({"input_ids": IDS, "attention_mask": torch.ones(2, 3)}, r"attention_mask must be .* \[2, 7\], got \[2, 3\]"),
        ({"input_ids": IDS, "attention_mask": torch.ones(2, 1, 7, 7)}, "attention_mask must be"),
        ({"input_ids": IDS, "position_ids": torch.arange(7).flip(0)[None]}, "position_ids of row 0 contradict"),
        ({"input_ids": IDS, "position_ids": torch.arange(3)[None]}, "position_ids must be"),
        ({"input_ids": IDS, "output_attentions": True}, "output_attentions is not supported: .* no attention weights"),
        (
            {"input_ids": IDS, "output_hidden_states": True},
            "output_hidden_states is not supported: .*feature-extraction",
        ),
        ({"input_ids": IDS, "labels": IDS}, "labels is not supported: a bundle has no gradients"),
        ({"input_ids": IDS, "inputs_embeds": torch.ones(2, 7, 64)}, "inputs_embeds is not supported: .*pass input_ids"),
        ({"input_ids": IDS, "token_type_ids": IDS}, "token_type_ids is not supported"),
        ({"input_ids": IDS, "past_key_values": DynamicCache()}, r"the past is a DynamicCache .*new_cache\(\)"),
        ({"input_ids": IDS, "head_mask": torch.ones(2)}, "head_mask is not supported: the model takes input_ids"),
    ],
)
def test_bad_input_is_one_clear_line(arguments: dict[str, Any], said: str, pair: Pair) -> None:
    with pytest.raises(InvalidInputError, match=said) as caught:
        pair.edge(**arguments)
    assert "\n" not in str(caught.value)


def test_mask_that_contradicts_the_past_is_refused(pair: Pair) -> None:
    past = pair.edge.new_cache()
    mask = torch.ones_like(IDS)
    mask[1, :2] = 0
    pair.edge(IDS, attention_mask=mask, past_key_values=past)
    with pytest.raises(InvalidInputError, match="the past has padding; pass the attention_mask"):
        pair.edge(IDS[:, :1], past_key_values=past)
    with pytest.raises(InvalidInputError, match="attention_mask differs from the one"):
        pair.edge(IDS[:, :1], attention_mask=torch.ones(2, 8), past_key_values=past)
    with pytest.raises(InvalidInputError, match="input_ids has 1 rows, the past 2"):
        pair.edge(IDS[:1, :1], past_key_values=past)
    with pytest.raises(InvalidInputError, match="give this model another cache"):
        pair.torch(IDS[:, :1], **{CACHE_NAME: past})
