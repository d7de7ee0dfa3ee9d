"""Tracing transformers' own CodeGen without weights."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import onnx_ir as ir
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from codegen_edge.bundle.model_config import ModelConfig
from codegen_edge.exporter.blocks import num_traced, repeat_block
from codegen_edge.exporter.checkpoint import Checkpoint

OPSET = 21  # the newest that transformers.js, OpenVINO and onnxruntime-genai all read
_TANH_GELU = {"gelu_new", "gelu_fast", "gelu_pytorch_tanh"}

Attend = Callable[["CachedAttention", torch.Tensor], torch.Tensor]
"""What stands between the two projections of an attention: (the module, qkv [B, T, 3*H*D]) -> [B, T, H*D]."""


class GraphInputs(SimpleNamespace):
    """The traced graph's inputs as attributes, and `present`, where blocks leave their keys and values.

    No dict: torch.export looks into the dicts of a module for tensors that its forward assigned, and refuses them.
    """

    def set(self, **values: Any) -> None:
        """Put values in place of those of the last call."""
        self.__dict__.update(values)


class CachedAttention(nn.Module):
    """Stands in for transformers' CodeGenAttention, and takes nothing of it but its two projections.

    transformers renames what it hands to its attention (`layer_past` became `cache` in 5.24). So the past comes from
    the wrapper that is traced, through `inputs`, and of transformers' arguments only the hidden states are read.

    Args:
        projections: a CodeGenAttention; in the graph its qkv_proj gives plain [Q, K, V] (see layout.py).
        layer: number of the block.
        config: the model's shape.
        attend: computes attention over `inputs`.
        inputs: shared by all blocks of a model; whoever calls the model puts the graph's inputs there.
    """

    def __init__(self, projections: Any, layer: int, config: ModelConfig, attend: Attend, inputs: GraphInputs) -> None:
        super().__init__()
        self.qkv_proj, self.out_proj = projections.qkv_proj, projections.out_proj
        self.layer = layer
        self.config = config
        self.attend = attend
        self.inputs = inputs

    def forward(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, None]:
        """[B, T, H*D] to [B, T, H*D]; transformers takes a pair, of which the second is the weights."""
        return self.out_proj(self.attend(self, self.qkv_proj(hidden_states))), None


def transformers_config(checkpoint: Checkpoint) -> Any:
    """The checkpoint's repaired config as a `transformers.CodeGenConfig`."""
    from transformers import CodeGenConfig

    fields = {key: value for key, value in checkpoint.hub_config.items() if key != "model_type"}
    return CodeGenConfig(**fields, attn_implementation="eager")


def fake_causal_lm(checkpoint: Checkpoint, attend: Attend, inputs: GraphInputs) -> Any:
    """`CodeGenForCausalLM` with every attention swapped, of the blocks that are traced; call it under `FakeTensorMode`.

    Its tanh-form GELU is swapped for torch's, which computes the same formula and traces to one operator.
    """
    from transformers import CodeGenForCausalLM

    config = transformers_config(checkpoint)
    config.n_layer = num_traced(checkpoint.model.num_layers)
    config.tie_word_embeddings = False  # tied heads are stored twice: Gather and MatMul want two layouts
    model = CodeGenForCausalLM(config).eval()
    for layer, block in enumerate(model.transformer.h):
        block.attn = CachedAttention(block.attn, layer, checkpoint.model, attend, inputs)
        if config.activation_function in _TANH_GELU:
            block.mlp.act = nn.GELU(approximate="tanh")
    return model


def call_without_cache(model: Any, input_ids: torch.Tensor) -> Any:
    """Call a CodeGenModel or CodeGenForCausalLM whose attentions know their past themselves."""
    return model(
        input_ids,
        use_cache=False,
        position_ids=torch.zeros_like(input_ids),
        # Four axes: transformers takes it for a finished mask, and the swapped attention ignores it.
        attention_mask=torch.zeros(1, 1, 1, 1),
    )


def trace(make_call: Callable[[], tuple[nn.Module, tuple[Any, ...], Any]], num_layers: int) -> ir.Model:
    """Trace a module under `FakeTensorMode`: shapes and operators, no weights.

    Args:
        make_call: gives the module, its example arguments and their dynamic shapes; called under the fake mode. It has
            `num_traced(num_layers)` blocks.
        num_layers: blocks of the graph.

    Returns:
        The graph as torch translates it, not cleaned; its initializers have no values.
    """
    with FakeTensorMode(), _quiet():
        module, arguments, dynamic_shapes = make_call()
        program = torch.export.export(module, arguments, dynamic_shapes=dynamic_shapes, strict=False)
        onnx_program = torch.onnx.export(program, dynamo=True, opset_version=OPSET, optimize=False, verbose=False)
    assert onnx_program is not None
    model: ir.Model = onnx_program.model
    repeat_block(model.graph, num_layers)
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch says of operators that CodeGen has not (torchvision's), and its own deprecations."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.filterwarnings("ignore", category=FutureWarning, message=".*LeafSpec.*")
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            yield
    finally:
        registration.setLevel(level)
