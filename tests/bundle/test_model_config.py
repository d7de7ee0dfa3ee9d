from __future__ import annotations

from typing import Any

import pytest

from codegen_edge.bundle.model_config import ModelConfig
from codegen_edge.errors import UnsupportedModelError

# Salesforce/codegen-350M-mono's numbers.
HUB = {
    "vocab_size": 51200,
    "n_positions": 2048,
    "n_layer": 20,
    "n_embd": 1024,
    "n_head": 16,
    "rotary_dim": 32,
    "n_inner": None,
    "eos_token_id": 50256,
}


def test_hub_names_are_read() -> None:
    config = ModelConfig.from_dict(HUB)
    assert (config.head_dim, config.hidden_size, config.inner_size) == (64, 1024, 4096)
    assert (config.num_layers, config.num_heads, config.context_length) == (20, 16, 2048)


@pytest.mark.parametrize("name", [name for name in HUB if name != "n_inner"])
@pytest.mark.parametrize("value", [None, "16", 0.5, True, -1, [16]])
def test_number_that_is_none_is_refused(name: str, value: Any) -> None:
    with pytest.raises(UnsupportedModelError):
        ModelConfig.from_dict(HUB | {name: value})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_head": 12}, "n_head 12 does not divide n_embd 1024"),
        ({"n_head": 2}, "multiple of 4"),
        ({"rotary_dim": 33}, "rotary_dim must be even"),
        ({"rotary_dim": 66}, "at most head_dim 64"),
        ({"eos_token_id": 51200}, "outside the vocabulary"),
        ({"n_layer": 0}, "num_layers must be at least 1"),
        ({"n_layer": 10**9}, "num_layers must be at most"),
        ({"n_positions": 10**9}, "context_length must be at most"),
        ({"n_inner": 0}, "inner_size must be at least 1"),
    ],
)
def test_impossible_shape_is_refused_with_both_numbers(changes: dict[str, int], words: str) -> None:
    with pytest.raises(UnsupportedModelError, match=words):
        ModelConfig.from_dict(HUB | changes)
