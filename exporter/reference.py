"""The checkpoint as a float32 torch model: what every export is compared with."""

from __future__ import annotations

from typing import Any

import torch

from codegen_edge.exporter import layout
from codegen_edge.exporter.checkpoint import Checkpoint
from codegen_edge.exporter.trace import transformers_config


def load_reference_model(checkpoint: Checkpoint) -> Any:
    """transformers' own CodeGenForCausalLM with the checkpoint's weights in float32, in evaluation mode.

    A checkpoint of CodeGenModel gets a zero LM head; only its `transformer` means something then.
    """
    from transformers import CodeGenForCausalLM
    from transformers.models.codegen.modeling_codegen import create_sinusoidal_positions

    with torch.device("meta"):
        model = CodeGenForCausalLM(transformers_config(checkpoint)).eval()
    names = layout.expected_tensors(checkpoint.model, with_lm_head=True)
    has_head = "lm_head.bias" in checkpoint.stored_names
    weights = {
        name: checkpoint.read(name).to(torch.float32)
        if has_head or not name.startswith("lm_head.")
        else torch.zeros(shape)
        for name, shape in names.items()
    }
    model.load_state_dict(weights, assign=True)
    tables = create_sinusoidal_positions(checkpoint.model.context_length, checkpoint.model.rotary_dim)
    for block in model.transformer.h:
        block.attn.embed_positions = tables
    return model
