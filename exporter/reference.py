"""The checkpoint as a float32 torch model: what every export is compared with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from codegen_edge.dependencies import incompatible_as_error
from codegen_edge.exporter import layout
from codegen_edge.exporter.checkpoint import Checkpoint
from codegen_edge.exporter.trace import transformers_config


def load_reference_model(checkpoint: Checkpoint) -> Any:
    """transformers' own CodeGenForCausalLM with the checkpoint's weights in float32, in evaluation mode.

    A checkpoint of CodeGenModel gets a zero LM head; only its `transformer` means something then.

    Raises:
        IncompatibleVersionError: the installed transformers cannot be driven.
    """
    from transformers import CodeGenForCausalLM

    names = layout.expected_tensors(checkpoint.model, with_lm_head=True)
    has_head = "lm_head.bias" in checkpoint.stored_names
    weights = {
        name: checkpoint.read(name).to(torch.float32)
        if has_head or not name.startswith("lm_head.")
        else torch.zeros(shape)
        for name, shape in names.items()
    }
    with incompatible_as_error("loading the reference model", "transformers", "torch"), _no_progress_bar():
        # Takes the tensors as they are, without a copy, and computes what no checkpoint holds.
        return CodeGenForCausalLM.from_pretrained(
            None, config=transformers_config(checkpoint), state_dict=weights, dtype=torch.float32
        ).eval()


@contextlib.contextmanager
def _no_progress_bar() -> Iterator[None]:
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()
