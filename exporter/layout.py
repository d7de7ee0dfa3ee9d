"""Which tensors a CodeGen checkpoint must have, and how they are laid out in a graph.

A graph keeps the checkpoint's names. Two things differ, both because MatMul computes `x @ w`:
weights of linear layers are stored transposed, [in, out], and the rows of qkv_proj are reordered from
4 partitions of [Q, V, K] (salesforce/CodeGen, modeling_codegen.py: `torch.split` into query, value, key)
to plain [Q, K, V].
"""

from __future__ import annotations

import re
from itertools import product

import torch

from codegen_edge.bundle.model_config import QKV_PARTITIONS, ModelConfig

EMBEDDING = "transformer.wte.weight"
LM_HEAD = "lm_head.weight"

# Buffers that old checkpoints carry; they are no weights.
_BUFFER = re.compile(r"(?:^|\.)attn\.(?:causal_mask|bias|masked_bias|embed_positions)$")
_QKV = "attn.qkv_proj.weight"


def is_buffer(name: str) -> bool:
    """Whether a stored tensor is a mask or position table, which every forward computes anew."""
    return _BUFFER.search(name) is not None


def expected_tensors(config: ModelConfig, *, with_lm_head: bool) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that a checkpoint of this shape must hold."""
    hidden, inner = config.hidden_size, config.inner_size
    tensors: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, hidden)}
    for layer in range(config.num_layers):
        block = f"transformer.h.{layer}"
        tensors |= {
            f"{block}.ln_1.weight": (hidden,),
            f"{block}.ln_1.bias": (hidden,),
            f"{block}.attn.qkv_proj.weight": (3 * hidden, hidden),
            f"{block}.attn.out_proj.weight": (hidden, hidden),
            f"{block}.mlp.fc_in.weight": (inner, hidden),
            f"{block}.mlp.fc_in.bias": (inner,),
            f"{block}.mlp.fc_out.weight": (hidden, inner),
            f"{block}.mlp.fc_out.bias": (hidden,),
        }
    tensors |= {"transformer.ln_f.weight": (hidden,), "transformer.ln_f.bias": (hidden,)}
    if with_lm_head:
        tensors |= {LM_HEAD: (config.vocab_size, hidden), "lm_head.bias": (config.vocab_size,)}
    return tensors


def graph_tensor(name: str, weight: torch.Tensor, *, is_transposed: bool) -> torch.Tensor:
    """A checkpoint's tensor as the graph stores it: float32, contiguous, one copy at most.

    Args:
        name: the tensor's name; qkv_proj is reordered.
        weight: as stored, [out, in] for linear layers.
        is_transposed: whether the graph wants [in, out].
    """
    rows, columns = weight.shape if weight.ndim == 2 else (len(weight), 1)
    if not is_transposed and not name.endswith(_QKV):
        return weight.to(torch.float32).contiguous()
    stored = torch.empty((columns, rows) if is_transposed else (rows, columns), dtype=torch.float32)
    by_row = stored.t() if is_transposed else stored  # a view: [out, in] whatever the storage
    if not name.endswith(_QKV):
        by_row.copy_(weight)
        return stored
    height = rows // (3 * QKV_PARTITIONS)
    for partition, (place, part) in product(range(QKV_PARTITIONS), enumerate((0, 2, 1))):
        source = (3 * partition + part) * height  # partitions of [Q, V, K]
        target = (QKV_PARTITIONS * place + partition) * height  # [Q, K, V], each of 4 partitions
        by_row[target : target + height].copy_(weight[source : source + height])
    return stored
