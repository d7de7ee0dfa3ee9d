from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from codegen_edge.errors import CheckpointError, UnsupportedModelError
from codegen_edge.exporter import CodeGenForCausalLM, load_reference_model, open_checkpoint

Tensors = dict[str, torch.Tensor]


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value != "absent"}))


def edit_weights(folder: Path, changes: dict[str, torch.Tensor | None]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path) | changes
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)


def test_sound_checkpoint_needs_no_mending(tiny_checkpoint: Path) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint)
    assert checkpoint.repairs == ()
    assert checkpoint.weights_dtype == "float32"
    assert (checkpoint.model.num_layers, checkpoint.model.hidden_size) == (2, 64)


def test_end_of_text_of_old_configs_is_mended(checkpoint_copy: Path) -> None:
    edit_config(checkpoint_copy, eos_token_id=2, bos_token_id=1)
    checkpoint = open_checkpoint(checkpoint_copy)
    end_of_text = json.loads((checkpoint_copy / "tokenizer.json").read_text())["added_tokens"][0]["id"]
    assert checkpoint.model.eos_token_id == end_of_text != 2
    assert len(checkpoint.repairs) == 2
    assert "eos_token_id was 2" in checkpoint.repairs[0]


def test_end_of_text_that_a_fine_tune_chose_is_kept(checkpoint_copy: Path) -> None:
    edit_config(checkpoint_copy, eos_token_id=7)
    assert open_checkpoint(checkpoint_copy).model.eos_token_id == 7


@pytest.mark.parametrize(("kept", "lost"), [("n_ctx", "n_positions"), ("n_positions", "n_ctx")])
def test_context_is_read_by_either_name(checkpoint_copy: Path, kept: str, lost: str) -> None:
    edit_config(checkpoint_copy, **{lost: "absent"})
    checkpoint = open_checkpoint(checkpoint_copy)
    assert checkpoint.model.context_length == 128
    assert f"{lost} was missing; took {kept}" in checkpoint.repairs[0]


def test_mask_buffers_of_old_files_are_dropped(checkpoint_copy: Path) -> None:
    names = (
        "transformer.h.0.attn.causal_mask",
        "transformer.h.1.attn.bias",
        "transformer.h.1.attn.masked_bias",
    )
    edit_weights(checkpoint_copy, {name: torch.ones(1, 1, 4, 4, dtype=torch.uint8) for name in names})
    assert not set(names) & open_checkpoint(checkpoint_copy).stored_names.keys()


def test_tied_head_is_the_embedding(checkpoint_copy: Path) -> None:
    edit_config(checkpoint_copy, tie_word_embeddings=True)
    edit_weights(checkpoint_copy, {"lm_head.weight": None})
    checkpoint = open_checkpoint(checkpoint_copy)
    assert torch.equal(checkpoint.read("lm_head.weight"), checkpoint.read("transformer.wte.weight"))


def test_head_that_is_stored_goes_before_the_wish_to_tie_as_in_transformers(checkpoint_copy: Path) -> None:
    edit_config(checkpoint_copy, tie_word_embeddings=True)
    theirs = CodeGenForCausalLM.from_pretrained(checkpoint_copy)
    ours = load_reference_model(open_checkpoint(checkpoint_copy))
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits)
    assert not open_checkpoint(checkpoint_copy).is_tied
    assert any("tie_word_embeddings was true" in sentence for sentence in open_checkpoint(checkpoint_copy).repairs)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"transformer.h.1.mlp.fc_in.bias": None}, r"lacks tensors: transformer\.h\.1\.mlp\.fc_in\.bias"),
        ({"lm_head.bias": None}, r"lacks tensors: lm_head\.bias"),
        ({"lm_head.weight": None}, r"lacks tensors: lm_head\.weight"),
        ({"transformer.h.2.ln_1.bias": torch.zeros(64)}, r"unknown tensors: transformer\.h\.2\.ln_1\.bias"),
        ({"transformer.ln_f.bias": torch.zeros(65)}, r"transformer\.ln_f\.bias \[65\] instead of \[64\]"),
        ({"transformer.ln_f.bias": torch.zeros(64).double()}, r"transformer\.ln_f\.bias \(torch\.float64\)"),
        (
            {f"transformer.h.{layer}.ln_1.{part}": None for layer in (0, 1) for part in ("weight", "bias")}
            | {"transformer.ln_f.bias": None, "transformer.ln_f.weight": None},
            "and 1 more",
        ),
    ],
)
def test_unsound_tensors_are_refused_by_name(
    checkpoint_copy: Path, changes: dict[str, torch.Tensor | None], words: str
) -> None:
    edit_weights(checkpoint_copy, changes)
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(checkpoint_copy)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gptj"}, "model_type 'gptj'"),
        ({"model_type": "absent"}, "model_type None"),
        ({"n_layer": 16, "n_embd": 2048}, "CodeGen2 size .* 8 partitions"),
        ({"n_layer": 16, "n_embd": 4096}, "CodeGen2 size .* 8 partitions"),
        ({"head_dim": 128}, "CodeGen2 size .* 8 partitions"),
        ({"n_head": 3}, "n_head 3 does not divide"),
        ({"rotary_dim": 17}, "rotary_dim must be even"),
        ({"n_layer": 0}, "num_layers"),
        ({"vocab_size": "many"}, "vocab_size must be an integer"),
        ({"n_layer": [2]}, "n_layer must be an integer"),
        ({"eos_token_id": [7]}, "eos_token_id must be an integer"),
        ({"n_positions": 10**12}, "context_length must be at most"),
        ({"activation_function": "magic"}, "activation_function 'magic'"),
        ({"activation_function": ["gelu"]}, "activation_function"),
        ({"layer_norm_epsilon": -1.0}, "layer_norm_epsilon must be between 0 and 1"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon must be between 0 and 1"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false"),
    ],
)
def test_other_models_are_refused_by_what_they_are(checkpoint_copy: Path, changes: dict[str, Any], words: str) -> None:
    edit_config(checkpoint_copy, **changes)
    with pytest.raises(UnsupportedModelError, match=words):
        open_checkpoint(checkpoint_copy)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\ud800", "[" * 100_000])
def test_config_that_is_no_json_object_is_refused(checkpoint_copy: Path, content: str) -> None:
    (checkpoint_copy / "config.json").write_text(content, errors="surrogatepass")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_checkpoint(checkpoint_copy)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_file_is_named(checkpoint_copy: Path, name: str) -> None:
    (checkpoint_copy / name).unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        open_checkpoint(checkpoint_copy)


def test_tokenizer_larger_than_the_model_is_refused(checkpoint_copy: Path) -> None:
    edit_config(checkpoint_copy, vocab_size=100, eos_token_id=7)
    with pytest.raises(CheckpointError, match="the model only 100"):
        open_checkpoint(checkpoint_copy)


def test_source_hash_changes_with_every_byte(checkpoint_copy: Path) -> None:
    before = open_checkpoint(checkpoint_copy).source("name", None).sha256
    assert before == open_checkpoint(checkpoint_copy).source("other", None).sha256
    edit_weights(checkpoint_copy, {"transformer.ln_f.bias": torch.ones(64)})
    assert before != open_checkpoint(checkpoint_copy).source("name", None).sha256
