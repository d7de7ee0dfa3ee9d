"""Checkpoints with random weights: any size, written shard by shard, for benchmarks and tests without a network."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from codegen_edge.bundle.model_config import ModelConfig
from codegen_edge.exporter import layout
from codegen_edge.tokenizer import END_OF_TEXT

_SHARD_BYTES = 1_000_000_000
_INITIALIZER_RANGE = 0.02  # of every CodeGen on the hub
_HUB_TOKENIZER_SIZE = 50295  # GPT-2's 50,257 ids and 38 runs
_SPACE_RUNS = range(31, 1, -1)  # CodeGen's added tokens: runs of 31…2 spaces, then of 9…2 tabs
_TAB_RUNS = range(9, 1, -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The hub's names for a size."""

    n_layer: int
    n_embd: int
    n_head: int
    rotary_dim: int
    vocab_size: int = 51200
    n_positions: int = 2048


# salesforce/jaxformer config/codegen_*.json
SHAPES = {
    "350M": ModelShape(n_layer=20, n_embd=1024, n_head=16, rotary_dim=32),
    "2B": ModelShape(n_layer=32, n_embd=2560, n_head=32, rotary_dim=64),
    "6B": ModelShape(n_layer=33, n_embd=4096, n_head=16, rotary_dim=64),
    "16B": ModelShape(n_layer=34, n_embd=6144, n_head=24, rotary_dim=64),
    "tiny": ModelShape(n_layer=2, n_embd=64, n_head=4, rotary_dim=16, vocab_size=640, n_positions=128),
}


def write_random_checkpoint(
    folder: Path,
    shape: ModelShape,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    texts: Iterable[str] = (),
    initializer_range: float = _INITIALIZER_RANGE,
    shard_bytes: int = _SHARD_BYTES,
) -> None:
    """Write a checkpoint with normally distributed weights.

    Args:
        folder: where to; made if it is not there.
        shape: the model's size.
        seed: of the weights.
        dtype: of the stored weights.
        texts: what the small tokenizer is trained on; without any it knows bytes and runs only.
        initializer_range: standard deviation of the weights. Small models need more than the hub's 0.02, or
            their attention is nearly uniform and hides faults of positions and masks.
        shard_bytes: the most bytes of a shard; memory stays near the largest tensor, or this where it is more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = small_tokenizer(texts, vocab_size=min(shape.vocab_size, 2048) - 64)
    if shape.vocab_size > _HUB_TOKENIZER_SIZE:
        tokenizer = _grown(tokenizer, _HUB_TOKENIZER_SIZE)
    write_tokenizer(folder, tokenizer)
    config = _config(shape, tokenizer.token_to_id(END_OF_TEXT), dtype) | {"initializer_range": initializer_range}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    _write_weights(folder, config, seed, dtype, shard_bytes)


def small_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE with CodeGen's structure: the vocabulary, `<|endoftext|>`, runs of spaces, runs of tabs."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, normalized=False)])
    runs = [" " * length for length in _SPACE_RUNS] + ["\t" * length for length in _TAB_RUNS]
    tokenizer.add_tokens([AddedToken(run, normalized=True) for run in runs])
    return tokenizer


def _grown(tokenizer: Tokenizer, size: int) -> Tokenizer:
    """The same tokenizer with `size` ids, as what asks it of its vocabulary meets on the hub.

    Tokens that no merge makes are put before the added ones; no text is ever encoded to them.
    """
    fields = json.loads(tokenizer.to_str())
    vocabulary, added = fields["model"]["vocab"], fields["added_tokens"]
    for token in added:
        vocabulary.pop(token["content"], None)
    vocabulary |= {f"unused{place}": place for place in range(len(vocabulary), size - len(added))}
    for place, token in enumerate(added, start=len(vocabulary)):
        token["id"] = place
    return Tokenizer.from_str(json.dumps(fields))


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Write the tokenizer files of a hub checkpoint."""
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer.model.save(str(folder))
    added = {
        token.content: token_id
        for token_id, token in tokenizer.get_added_tokens_decoder().items()
        if token.content != END_OF_TEXT
    }
    (folder / "added_tokens.json").write_text(json.dumps(added, indent=2) + "\n")
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    config = special | {"add_prefix_space": False, "tokenizer_class": "CodeGenTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _config(shape: ModelShape, end_of_text_id: int | None, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "architectures": ["CodeGenForCausalLM"],
        "model_type": "codegen",
        "activation_function": "gelu_new",
        "n_layer": shape.n_layer,
        "n_embd": shape.n_embd,
        "n_head": shape.n_head,
        "n_inner": None,
        "rotary_dim": shape.rotary_dim,
        "vocab_size": shape.vocab_size,
        "n_positions": shape.n_positions,
        "n_ctx": shape.n_positions,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": end_of_text_id,
        "eos_token_id": end_of_text_id,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


def _write_weights(folder: Path, config: dict[str, Any], seed: int, dtype: torch.dtype, shard_bytes: int) -> None:
    shards: list[list[str]] = [[]]
    filled = 0
    shapes = layout.expected_tensors(ModelConfig.from_dict(config), with_lm_head=True)
    for name, shape in shapes.items():
        size_bytes = torch.Size(shape).numel() * dtype.itemsize
        if shards[-1] and filled + size_bytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size_bytes
    generator = torch.Generator().manual_seed(seed)
    deviation = config["initializer_range"]
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        whole = len(shards) == 1
        file = "model.safetensors" if whole else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {name: _random(name, shapes[name], deviation, generator).to(dtype) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _random(name: str, shape: tuple[int, ...], deviation: float, generator: torch.Generator) -> torch.Tensor:
    mean = 1.0 if ".ln_" in name and name.endswith("weight") else 0.0
    return torch.empty(shape).normal_(mean, deviation, generator=generator)
