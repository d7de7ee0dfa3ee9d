"""Opening a checkpoint folder: config, weights and tokenizer, checked before any work begins."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from codegen_edge.bundle import Source
from codegen_edge.bundle.model_config import ModelConfig
from codegen_edge.bundle.storage import sha256_of
from codegen_edge.errors import CheckpointError, UnsupportedModelError
from codegen_edge.exporter import layout
from codegen_edge.exporter.json_files import read_strict_object
from codegen_edge.exporter.tokenizer_files import load_tokenizer_files
from codegen_edge.exporter.weights import WeightFiles, open_weights
from codegen_edge.tokenizer import END_OF_TEXT

# config.json on the hub said 2 until October 2022, and copies still do (salesforce/CodeGen issue 34).
_FAULTY_EOS = 2
# (n_layer, n_embd) of CodeGen2-1B and -3.7B, whose qkv has 8 partitions; the stock class computes garbage.
_EIGHT_PARTITIONS = ((16, 2048), (16, 4096))
# CodeGen2's configs of those sizes name head_dim; CTranslate2's converter recognizes them by it as well.
_EIGHT_PARTITION_HEAD_DIMS = (128, 256)
# sample.py of salesforce/CodeGen gives GPT-2's tokenizer to models of nl, and one with the runs to these.
_NAMES_WITH_RUNS = ("-multi", "-mono")
_WEIGHT_DTYPES = {torch.float16, torch.bfloat16, torch.float32}
_MAX_NAMED = 5  # tensors named in an error; the rest is counted

_CONFIG_KEYS = (
    "model_type",
    "vocab_size",
    "n_positions",
    "n_ctx",
    "n_embd",
    "n_layer",
    "n_head",
    "n_inner",
    "rotary_dim",
    "activation_function",
    "layer_norm_epsilon",
    "tie_word_embeddings",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """An opened checkpoint, sound as far as can be seen without reading the weights.

    Attributes:
        folder: where it lies.
        model: the model's shape.
        hub_config: the repaired config in the hub's names, without what only training needs.
        weights: tensors by the names of CodeGenForCausalLM, buffers dropped.
        stored_names: name in the files by the name of CodeGenForCausalLM.
        is_tied: whether the LM head is the embedding table.
        tokenizer_files: content by file name, `tokenizer.json` among them.
        repairs: what was repaired, one sentence each.
    """

    folder: Path
    model: ModelConfig
    hub_config: dict[str, Any]
    weights: WeightFiles
    stored_names: dict[str, str]
    is_tied: bool
    tokenizer_files: dict[str, bytes]
    repairs: tuple[str, ...]

    @property
    def weights_dtype(self) -> str:
        """dtype of the embedding table, for example "float16"."""
        return str(self.weights.tensors[self.stored_names[layout.EMBEDDING]].dtype).removeprefix("torch.")

    def read(self, name: str) -> torch.Tensor:
        """Map one tensor by its CodeGenForCausalLM name, in its stored dtype and layout."""
        if name == layout.LM_HEAD and self.is_tied:
            name = layout.EMBEDDING
        return self.weights.read(self.stored_names[name])

    def source(self, name: str, revision: str | None) -> Source:
        """The record of this checkpoint for a bundle; hashes config and weights, which reads every byte."""
        digest = hashlib.sha256()
        for file in (self.folder / "config.json", *self.weights.files):
            digest.update(f"{file.name} {sha256_of(file)}\n".encode())
        return Source(
            name=name,
            revision=revision,
            sha256=digest.hexdigest(),
            weights_dtype=self.weights_dtype,
            repairs=self.repairs,
        )


def open_checkpoint(folder: str | Path, tokenizer_folder: str | Path | None = None) -> Checkpoint:
    """Open a local checkpoint of CodeGenForCausalLM (or of CodeGenModel, without the LM head).

    Args:
        folder: holds config.json, weights and tokenizer files as on the hub.
        tokenizer_folder: whose tokenizer is taken instead of the folder's own; a release archive has none. To GPT-2's
            the runs of spaces and tabs are added where the folder's name is that of a multi or mono checkpoint.

    Raises:
        CheckpointError: a file is missing or malformed; tensors are missing, extra or misshapen.
        UnsupportedModelError: another model_type, or CodeGen2 with 8 qkv partitions.
        UnsafeCheckpointError: a file would run code.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is not a folder; give a checkpoint's folder or a hub id like Salesforce/codegen-350M-mono"
        )
    config = read_strict_object(folder / "config.json")
    config = {key: value for key, value in config.items() if value is not None}
    _check_supported(config)
    _check_values(config)
    if tokenizer_folder is None:
        tokenizer = load_tokenizer_files(folder)
    else:
        tokenizer = load_tokenizer_files(Path(tokenizer_folder), add_runs=folder.name.endswith(_NAMES_WITH_RUNS))
    repairs = tokenizer.repairs + _repair(config, tokenizer.end_of_text_id)
    model = ModelConfig.from_dict(config)
    if tokenizer.vocab_size > model.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} ids, the model only {model.vocab_size}"
        )
    weights = open_weights(folder)
    stored_names = _names_in_model(weights)
    # As transformers does: a head that is stored goes before the wish to tie.
    wants_tie = config.get("tie_word_embeddings", False)
    is_tied = wants_tie and layout.LM_HEAD not in stored_names
    if wants_tie and not is_tied:
        repairs += (f"tie_word_embeddings was true; took the {layout.LM_HEAD} that is stored",)
    _check_tensors(weights, stored_names, model, is_tied=is_tied)
    hub_config = {key: config[key] for key in _CONFIG_KEYS if key in config} | {"tie_word_embeddings": is_tied}
    return Checkpoint(
        folder=folder,
        model=model,
        hub_config=hub_config | {"bos_token_id": config["bos_token_id"], "eos_token_id": model.eos_token_id},
        weights=weights,
        stored_names=stored_names,
        is_tied=is_tied,
        tokenizer_files=tokenizer.files,
        repairs=repairs,
    )


def _check_supported(config: dict[str, Any]) -> None:
    if config.get("model_type") != "codegen":
        raise UnsupportedModelError(
            f"config.json says model_type {config.get('model_type')!r}; codegen-edge exports 'codegen' only"
        )
    shape = (config.get("n_layer"), config.get("n_embd"))
    if shape in _EIGHT_PARTITIONS or config.get("head_dim") in _EIGHT_PARTITION_HEAD_DIMS:
        raise UnsupportedModelError(
            f"this is a CodeGen2 size (n_layer {shape[0]}, n_embd {shape[1]}, head_dim {config.get('head_dim')}) "
            "whose qkv_proj has 8 partitions; codegen-edge exports models with 4"
        )


def _check_values(config: dict[str, Any]) -> None:
    """Check what ModelConfig does not hold and transformers would stumble over; absent means its default."""
    from transformers.activations import ACT2FN

    activation = config.get("activation_function", "gelu_new")
    if not isinstance(activation, str) or activation not in ACT2FN:
        raise UnsupportedModelError(f"config.json: activation_function {activation!r} is not known to transformers")
    epsilon = config.get("layer_norm_epsilon", 1e-5)
    if not isinstance(epsilon, float) or not 0 < epsilon < 1:
        raise UnsupportedModelError(f"config.json: layer_norm_epsilon must be between 0 and 1, got {epsilon!r}")
    is_tied = config.get("tie_word_embeddings", False)
    if not isinstance(is_tied, bool):
        raise UnsupportedModelError(f"config.json: tie_word_embeddings must be true or false, got {is_tied!r}")


def _repair(config: dict[str, Any], end_of_text_id: int | None) -> tuple[str, ...]:
    """Put known faults of old files right, in place; return what was done."""
    repairs = []
    for name, other in (("n_positions", "n_ctx"), ("n_ctx", "n_positions")):
        if config.get(name) is None and config.get(other) is not None:
            config[name] = config[other]
            repairs.append(f"{name} was missing; took {other}, {config[other]}")
    eos = config.get("eos_token_id")
    if end_of_text_id is not None and eos != end_of_text_id and eos in (_FAULTY_EOS, None):
        config["eos_token_id"] = end_of_text_id
        repairs.append(f"eos_token_id was {eos}; {END_OF_TEXT} is {end_of_text_id}")
    # The hub's configs say 1, which is '"'. The tokenizer's beginning of text is its end of text.
    bos = config.get("bos_token_id")
    if bos != config.get("eos_token_id"):
        config["bos_token_id"] = config.get("eos_token_id")
        repairs.append(f"bos_token_id was {bos}; {END_OF_TEXT} is {config['bos_token_id']}")
    return tuple(repairs)


def _names_in_model(weights: WeightFiles) -> dict[str, str]:
    """Stored name of each tensor by its CodeGenForCausalLM name; a bare CodeGenModel lacks the prefix."""
    is_bare = "wte.weight" in weights.tensors and layout.EMBEDDING not in weights.tensors
    prefix = "transformer." if is_bare else ""
    return {prefix + name: name for name in weights.tensors if not layout.is_buffer(name)}


def _check_tensors(weights: WeightFiles, stored_names: dict[str, str], model: ModelConfig, *, is_tied: bool) -> None:
    expected = layout.expected_tensors(model, with_lm_head=True)
    optional = {layout.LM_HEAD} if is_tied else set()
    if not any(name.startswith("lm_head.") for name in stored_names):
        optional |= {name for name in expected if name.startswith("lm_head.")}  # a bare CodeGenModel
    _refuse("lacks", [name for name in expected if name not in stored_names and name not in optional])
    _refuse("has unknown", [name for name in stored_names if name not in expected])
    misshapen, mistyped = [], []
    for name, stored_name in stored_names.items():
        tensor = weights.tensors[stored_name]
        if tensor.shape != expected[name]:
            misshapen.append(f"{name} {list(tensor.shape)} instead of {list(expected[name])}")
        if tensor.dtype not in _WEIGHT_DTYPES:
            mistyped.append(f"{name} ({tensor.dtype})")
    _refuse("has misshapen", misshapen)
    _refuse("has, in a dtype other than float16, bfloat16 or float32,", mistyped)


def _refuse(what: str, names: list[str]) -> None:
    if names:
        named = ", ".join(sorted(names)[:_MAX_NAMED])
        more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
        raise CheckpointError(f"the checkpoint {what} tensors: {named}{more}")
