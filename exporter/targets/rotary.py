"""The tables of rotary embedding, which every target puts into its graph."""

from __future__ import annotations

import torch

from codegen_edge.model_config import ModelConfig


def rotary_tables(config: ModelConfig) -> dict[str, torch.Tensor]:
    """cos and sin [context_length, rotary_dim / 2], from transformers' own function."""
    from transformers.models.codegen.modeling_codegen import create_sinusoidal_positions

    sin, cos = create_sinusoidal_positions(config.context_length, config.rotary_dim).chunk(2, dim=1)
    return {"rotary_cos": cos.contiguous(), "rotary_sin": sin.contiguous()}
