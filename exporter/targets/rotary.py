"""The tables of rotary embedding, which every target puts into its graph."""

from __future__ import annotations

import torch

from codegen_edge.bundle.model_config import ModelConfig

_BASE = 10_000  # of CodeGen's frequencies (salesforce/CodeGen, jaxformer/hf/codegen/modeling_codegen.py)


def rotary_tables(config: ModelConfig) -> dict[str, torch.Tensor]:
    """cos and sin of position times frequency, each [context_length, rotary_dim / 2] float32.

    Frequency i is 10000^(-2i / rotary_dim) (J. Su et al., "RoFormer", 2021). Computed in the order of operations of
    transformers' CodeGen, so that the tables are its own to the last bit (tests/exporter/test_export.py).
    """
    exponents = torch.arange(0, config.rotary_dim, 2) / config.rotary_dim
    frequencies = 1.0 / _BASE**exponents
    angles = torch.outer(torch.arange(config.context_length).float(), frequencies)
    return {"rotary_cos": torch.cos(angles), "rotary_sin": torch.sin(angles)}
