from __future__ import annotations

import pytest
import torch
from transformers import CodeGenConfig, CodeGenForCausalLM

from codegen_edge.bundle.model_config import ModelConfig
from codegen_edge.exporter.layout import expected_tensors, graph_tensor, is_buffer

QKV = "transformer.h.0.attn.qkv_proj.weight"


@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("hidden", [64, 96, 128])
def test_qkv_rows_become_plain_q_k_v_as_attention_splits_them(hidden: int, is_transposed: bool) -> None:
    weight = torch.randn(3 * hidden, hidden)
    inputs = torch.randn(1, 1, hidden)
    # As the forward splits them: 4 partitions, each query, value, key of a quarter of the heads.
    split = (inputs @ weight.T).reshape(1, 1, 4, -1)
    query, value, key = torch.split(split, hidden // 4, dim=-1)
    merged = [part.reshape(1, 1, hidden) for part in (query, key, value)]
    stored = graph_tensor(QKV, weight, is_transposed=is_transposed)
    actual = inputs @ (stored if is_transposed else stored.T)
    assert stored.is_contiguous()
    torch.testing.assert_close(actual, torch.cat(merged, -1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_weights_become_float32_exactly(dtype: torch.dtype) -> None:
    weight = torch.randn(6, 4).to(dtype)
    name = "transformer.h.0.mlp.fc_in.weight"
    assert torch.equal(graph_tensor(name, weight, is_transposed=False), weight.float())
    transposed = graph_tensor(name, weight, is_transposed=True)
    assert transposed.is_contiguous()
    assert torch.equal(transposed, weight.float().T)
    bias = torch.randn(6).to(dtype)
    assert torch.equal(graph_tensor("transformer.h.0.mlp.fc_in.bias", bias, is_transposed=False), bias.float())


def test_expected_tensors_are_those_of_transformers() -> None:
    config = CodeGenConfig(
        n_embd=64,
        n_head=4,
        n_layer=2,
        rotary_dim=16,
        vocab_size=100,
        n_positions=8,
        n_inner=96,
        bos_token_id=0,
        eos_token_id=0,
    )
    shapes = {name: tuple(tensor.shape) for name, tensor in CodeGenForCausalLM(config).state_dict().items()}
    assert expected_tensors(ModelConfig.from_dict(config.to_dict()), with_lm_head=True) == shapes


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("transformer.h.3.attn.causal_mask", True),
        ("transformer.h.3.attn.bias", True),
        ("h.3.attn.masked_bias", True),
        ("transformer.h.3.attn.qkv_proj.bias", False),
        ("transformer.h.3.attn.out_proj.weight", False),
        ("transformer.h.3.mlp.fc_in.bias", False),
    ],
)
def test_buffers_of_old_files_are_told_from_weights(name: str, expected: bool) -> None:
    assert is_buffer(name) == expected
