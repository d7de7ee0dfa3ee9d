"""The `tensorrt` target: ONNX's own operators over KV buffers of a fixed capacity.

TensorScatter writes the new keys and values where a row's past ends, a one-output Attention reads the whole buffer
under a mask, RotaryEmbedding turns by position. TensorRT takes each of them (its parser refuses Attention with a
present of its own), and ONNX Runtime's CPU provider computes the very same graph.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from codegen_edge.bundle import contract
from codegen_edge.bundle.model_config import ModelConfig
from codegen_edge.errors import UnsupportedModelError
from codegen_edge.exporter import graph as graphs
from codegen_edge.exporter.blocks import num_traced
from codegen_edge.exporter.checkpoint import Checkpoint
from codegen_edge.exporter.targets import TargetGraph
from codegen_edge.exporter.targets.rotary import rotary_tables
from codegen_edge.exporter.trace import CachedAttention, GraphInputs, call_without_cache, fake_causal_lm, trace

_OPSET = 24  # TensorScatter's first

Axes = list[str | int]


def build_graph(checkpoint: Checkpoint, task: contract.Task) -> TargetGraph:
    """Trace a checkpoint's model for TensorRT."""
    if task != "text-generation":
        raise UnsupportedModelError("target tensorrt is for text generation; export features with target ort")
    config = checkpoint.model

    def make_call() -> tuple[nn.Module, tuple[Any, ...], Any]:
        inputs = GraphInputs()
        module = _Wrapper(fake_causal_lm(checkpoint, _static_attention, inputs), config, inputs)
        # Example sizes that differ from one another, so that no two axes are taken for one.
        batch_size, num_new, capacity = 2, 3, 11
        batch, new, length = (torch.export.Dim(name) for name in ("batch", "new", "capacity"))
        ids = torch.zeros(batch_size, num_new, dtype=torch.int64)
        past_length = torch.zeros(batch_size, dtype=torch.int64)
        buffers = [
            tuple(torch.empty(batch_size, config.num_heads, capacity, config.head_dim) for _ in range(2))
            for _ in range(num_traced(config.num_layers))
        ]
        shapes = ({0: batch, 1: new}, {0: batch}, [({0: batch, 2: length},) * 2 for _ in buffers])
        return module, (ids, past_length, buffers), shapes

    model = trace(make_call, config.num_layers)
    transposed = graphs.clean(model, prefix="model.")
    model.graph.opset_imports[""] = _OPSET
    _name_graph(model.graph, config)
    return TargetGraph(model=model, transposed=transposed, computed=rotary_tables(config))


class _Wrapper(nn.Module):
    """The graph's signature around CodeGenForCausalLM."""

    def __init__(self, model: Any, config: ModelConfig, inputs: GraphInputs) -> None:
        super().__init__()
        self.model = model
        self.inputs = inputs
        self.last_position = config.context_length - 1
        shape = (config.context_length, config.rotary_dim // 2)
        self.register_buffer("rotary_cos", torch.empty(shape))
        self.register_buffer("rotary_sin", torch.empty(shape))

    def forward(self, input_ids: torch.Tensor, past_length: torch.Tensor, buffers: Any) -> Any:
        # A row's new tokens stand at past_length, past_length + 1, …
        # Padding may stand beyond the context; its positions only have to be in the tables.
        positions = past_length[:, None] + torch.arange(input_ids.shape[1])  # [B, T]
        places = torch.arange(buffers[0][0].shape[2])  # [C]
        present: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.inputs.set(
            past=buffers,
            past_length=past_length,
            mask=places[None, None, None, :] <= positions[:, None, :, None],  # [B, 1, T, C]
            positions=positions.clamp(max=self.last_position),
            cos=self.rotary_cos,
            sin=self.rotary_sin,
            present=present,
        )
        return call_without_cache(self.model, input_ids).logits, present


def _static_attention(attention: CachedAttention, qkv: torch.Tensor) -> torch.Tensor:
    config, inputs = attention.config, attention.inputs
    batch_size, num_new = qkv.shape[:2]
    heads = (batch_size, num_new, config.num_heads, config.head_dim)
    parts = torch.onnx.ops.symbolic_multi_out(
        "::Split",
        [qkv],
        attrs={"axis": 2, "num_outputs": 3},
        dtypes=[qkv.dtype] * 3,
        shapes=[(batch_size, num_new, config.hidden_size)] * 3,
    )
    query, key, value = (part.reshape(heads).transpose(1, 2) for part in parts)  # [B, H, T, D]
    query, key = (_rotated(part, config, inputs) for part in (query, key))
    past_key, past_value = inputs.past[attention.layer]
    present_key, present_value = (
        _operator("TensorScatter", [past, new, inputs.past_length], {"axis": 2}, past)
        for past, new in ((past_key, key), (past_value, value))
    )
    inputs.present.append((present_key, present_value))
    attended = _operator(
        "Attention",
        [query, present_key, present_value, inputs.mask],
        {"scale": 1 / math.sqrt(config.head_dim)},
        query,
    )
    return attended.transpose(1, 2).reshape(batch_size, num_new, config.hidden_size)


def _rotated(part: torch.Tensor, config: ModelConfig, inputs: GraphInputs) -> torch.Tensor:
    attributes = {"interleaved": 1, "rotary_embedding_dim": config.rotary_dim}  # pairs (0, 1), (2, 3), …
    return _operator("RotaryEmbedding", [part, inputs.cos, inputs.sin, inputs.positions], attributes, part)


def _operator(
    name: str, inputs: list[torch.Tensor], attributes: Mapping[str, int | float], like: torch.Tensor
) -> torch.Tensor:
    """An ONNX operator whose result has the shape and dtype of `like`."""
    result: torch.Tensor = torch.onnx.ops.symbolic(
        f"::{name}", inputs, attrs=attributes, dtype=like.dtype, shape=like.shape
    )
    return result


def _name_graph(graph: Any, config: ModelConfig) -> None:
    places = [(layer, part) for layer in range(config.num_layers) for part in contract.KV_PARTS]
    capacity: Axes = [contract.AXIS_BATCH, config.num_heads, contract.AXIS_CAPACITY, config.head_dim]
    graphs.name_values(
        graph.inputs,
        [contract.INPUT_IDS, contract.PAST_LENGTH, *(contract.past_name(*place) for place in places)],
        [[contract.AXIS_BATCH, contract.AXIS_NEW], [contract.AXIS_BATCH], *([capacity] * len(places))],
    )
    graphs.name_values(
        graph.outputs,
        [contract.LOGITS, *(contract.present_name(*place) for place in places)],
        [[contract.AXIS_BATCH, contract.AXIS_NEW, config.vocab_size], *([capacity] * len(places))],
    )
