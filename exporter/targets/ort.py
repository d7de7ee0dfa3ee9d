"""The `ort` target: attention, rotary embedding and KV cache in one com.microsoft::GroupQueryAttention a layer.

Operator: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md (GroupQueryAttention).
"""

from __future__ import annotations

import math
from typing import Any, cast

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

# group_query_attention_helper.h: with rotary, head_size is a multiple of 16 and the tables' width one of 8.
_ROTARY_MULTIPLE = 16
_INT32 = 6  # onnx.TensorProto.INT32

Axes = list[str | int]


def build_graph(checkpoint: Checkpoint, task: contract.Task) -> TargetGraph:
    """Trace a checkpoint's model for ONNX Runtime."""
    config = checkpoint.model
    if config.head_dim % _ROTARY_MULTIPLE or config.rotary_dim % _ROTARY_MULTIPLE:
        raise UnsupportedModelError(
            f"target ort needs head_dim and rotary_dim to be multiples of {_ROTARY_MULTIPLE} "
            f"(GroupQueryAttention's rule), got {config.head_dim} and {config.rotary_dim}"
        )
    has_cache = task == "text-generation"

    def make_call() -> tuple[nn.Module, tuple[Any, ...], Any]:
        inputs = GraphInputs()
        causal_lm = fake_causal_lm(checkpoint, _group_query_attention, inputs)
        module = _Wrapper(causal_lm, config, inputs, has_cache=has_cache)
        # Example sizes that differ from one another, so that no two axes are taken for one.
        batch_size, num_new, num_past = 2, 3, 7
        batch, new, past = (torch.export.Dim(name) for name in ("batch", "new", "past"))
        ids = torch.zeros(batch_size, num_new, dtype=torch.int64)
        if not has_cache:
            return module, (ids, torch.zeros_like(ids), None), ({0: batch, 1: new}, {0: batch, 1: new}, None)
        mask = torch.zeros(batch_size, num_new + num_past, dtype=torch.int64)
        buffers = [
            tuple(torch.empty(batch_size, config.num_heads, num_past, config.head_dim) for _ in range(2))
            for _ in range(num_traced(config.num_layers))
        ]
        buffer_shapes = [({0: batch, 2: past},) * 2 for _ in buffers]
        shapes = ({0: batch, 1: new}, {0: batch, 1: torch.export.Dim.AUTO}, buffer_shapes)
        return module, (ids, mask, buffers), shapes

    model = trace(make_call, config.num_layers)
    transposed = graphs.clean(model, prefix="model.")
    _name_graph(model.graph, config, has_cache=has_cache)
    if has_cache:
        graphs.keep_last_logits(model)
    return TargetGraph(model=model, transposed=transposed, computed=rotary_tables(config))


class _Wrapper(nn.Module):
    """The graph's signature around CodeGenForCausalLM."""

    def __init__(self, model: Any, config: ModelConfig, inputs: GraphInputs, *, has_cache: bool) -> None:
        super().__init__()
        self.model = model
        self.num_layers = num_traced(config.num_layers)
        self.inputs = inputs
        self.has_cache = has_cache
        shape = (config.context_length, config.rotary_dim // 2)
        self.register_buffer("rotary_cos", torch.empty(shape))
        self.register_buffer("rotary_sin", torch.empty(shape))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, buffers: Any) -> Any:
        # Right padding: the last valid position of a row is the number of ones in its mask, less one.
        seqlens_k = (attention_mask.sum(1) - 1).to(torch.int32)
        span = torch.onnx.ops.symbolic(
            "::Shape", [attention_mask], attrs={"start": 1, "end": 2}, dtype=torch.int64, shape=[1]
        )
        total = torch.onnx.ops.symbolic("::Cast", [span], attrs={"to": _INT32}, dtype=torch.int32, shape=[1])
        present: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.inputs.set(
            past=buffers or [(None, None)] * self.num_layers,
            shared=[seqlens_k, total, self.rotary_cos, self.rotary_sin],
            present=present,
        )
        if self.has_cache:
            return call_without_cache(self.model, input_ids).logits, present
        return call_without_cache(self.model.transformer, input_ids).last_hidden_state


def _group_query_attention(attention: CachedAttention, qkv: torch.Tensor) -> torch.Tensor:
    config, inputs = attention.config, attention.inputs
    key, value = inputs.past[attention.layer]
    batch_size, num_new = qkv.shape[:2]
    shape = (batch_size, config.num_heads, num_new, config.head_dim) if key is None else key.shape
    attended, present_key, present_value = torch.onnx.ops.symbolic_multi_out(
        "com.microsoft::GroupQueryAttention",
        [qkv, None, None, key, value, *inputs.shared],
        attrs={
            "num_heads": config.num_heads,
            "kv_num_heads": config.num_heads,
            "do_rotary": 1,
            "rotary_interleaved": 1,  # pairs (0, 1), (2, 3), …: rotate_every_two
            "scale": 1 / math.sqrt(config.head_dim),
        },
        dtypes=[qkv.dtype] * 3,
        shapes=[(batch_size, num_new, config.hidden_size), shape, shape],
        version=1,
    )
    inputs.present.append((present_key, present_value))
    return cast(torch.Tensor, attended)


def _name_graph(graph: Any, config: ModelConfig, *, has_cache: bool) -> None:
    layers = range(config.num_layers)
    total = contract.AXIS_TOTAL if has_cache else contract.AXIS_NEW
    names = [contract.INPUT_IDS, contract.ATTENTION_MASK]
    axes: list[Axes] = [
        [contract.AXIS_BATCH, contract.AXIS_NEW],
        [contract.AXIS_BATCH, total],
    ]
    if not has_cache:
        graphs.name_values(graph.inputs, names, axes)
        hidden: Axes = [contract.AXIS_BATCH, contract.AXIS_NEW, config.hidden_size]
        graphs.name_values(graph.outputs, [contract.LAST_HIDDEN_STATE], [hidden])
        return
    pasts = [contract.past_name(layer, part) for layer in layers for part in contract.KV_PARTS]
    past_axes: Axes = [contract.AXIS_BATCH, config.num_heads, contract.AXIS_PAST, config.head_dim]
    graphs.name_values(graph.inputs, names + pasts, axes + [past_axes] * len(pasts))

    presents = [contract.present_name(layer, part) for layer in layers for part in contract.KV_PARTS]
    present_axes: Axes = [contract.AXIS_BATCH, config.num_heads, contract.AXIS_TOTAL, config.head_dim]
    logits_axes: Axes = [contract.AXIS_BATCH, contract.AXIS_NEW, config.vocab_size]
    graphs.name_values(graph.outputs, [contract.LOGITS, *presents], [logits_axes] + [present_axes] * len(presents))
