"""Hidden states compared with transformers' CodeGenModel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import pipeline

from codegen_edge.bundle import Bundle
from codegen_edge.errors import BundleError, InvalidInputError
from codegen_edge.transformers import AutoModel, CodeGenEdgeModel
from tests.transformers.conftest import PROMPTS, Pair
from tests.transformers.test_forward import IDS, assert_close


@pytest.fixture(scope="module")
def model(feature_bundle: Bundle) -> Any:
    return AutoModel.from_pretrained(feature_bundle.path, threads=1)


@torch.no_grad()
def test_hidden_states_are_equal(model: Any, pair: Pair) -> None:
    expected = pair.torch.transformer(IDS).last_hidden_state
    assert_close(model(IDS).last_hidden_state, expected)
    (states,) = model(input_ids=IDS, attention_mask=torch.ones_like(IDS), return_dict=False)
    assert_close(states, expected)


@torch.no_grad()
def test_hidden_states_of_a_padded_batch_are_equal(model: Any, pair: Pair, padded: Any) -> None:
    mask = padded["attention_mask"]
    actual = model(**padded).last_hidden_state
    expected = pair.torch.transformer(**padded).last_hidden_state
    assert_close(actual[mask == 1], expected[mask == 1])
    assert not actual[mask == 0].any()


def test_feature_extraction_pipeline_is_equal(model: Any, pair: Pair, tokenizer: Any) -> None:
    texts = []
    for each in (model, pair.torch.transformer):
        texts.append(pipeline("feature-extraction", model=each, tokenizer=tokenizer)(PROMPTS[0]))
    assert_close(torch.tensor(texts[0]), torch.tensor(texts[1]))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"input_ids": None}, "input_ids are missing"),
        ({"use_cache": True}, "use_cache is not supported: .*pass all tokens at once"),
        ({"past_key_values": object()}, "past_key_values is not supported"),
        ({"output_hidden_states": True}, "output_hidden_states is not supported"),
        ({"attention_mask": torch.zeros(2, 7)}, "at least one token in each row"),
    ],
)
def test_bad_input_is_one_clear_line(arguments: dict[str, Any], said: str, model: Any) -> None:
    with pytest.raises(InvalidInputError, match=said):
        model(**{"input_ids": IDS, **arguments})


def test_bundle_of_another_task_or_runtime_is_refused(feature_bundle: Bundle, tiny_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="exported for text-generation; this needs a bundle for feature-extraction"):
        CodeGenEdgeModel.from_pretrained(tiny_bundle.path)
    with pytest.raises(InvalidInputError, match="runtime cuda computes no hidden states"):
        CodeGenEdgeModel.from_pretrained(feature_bundle.path, runtime="cuda")
    with pytest.raises(InvalidInputError, match="CodeGenEdgeModel has no exact_steps"):
        CodeGenEdgeModel.from_pretrained(feature_bundle.path, exact_steps=True)
