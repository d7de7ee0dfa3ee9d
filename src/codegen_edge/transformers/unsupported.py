"""Options of transformers that a bundle cannot follow: refused by name with what does it here, never ignored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from codegen_edge.errors import InvalidInputError

_OWN_CACHE = "the runtime keeps keys and values itself; codegen-edge quantize --kv-cache int8 makes them small"
_DRAFTS = "assistant_model and prompt_lookup_num_tokens draft here"
_ATTENTIONS = "a bundle computes no attention weights that it could return; CodeGenForCausalLM of transformers does"
_HIDDEN = (
    "a bundle returns no inner states; CodeGenEdgeModel returns the last one, of a bundle that was exported with "
    "--task feature-extraction"
)
_TRAINING = "a bundle has no gradients; train with CodeGenForCausalLM of transformers and export the checkpoint"
_BATCHES = "codegen-edge serve batches continuously"

_GENERATE = {
    "output_attentions": _ATTENTIONS,
    "output_hidden_states": _HIDDEN,
    "cache_implementation": _OWN_CACHE,
    "cache_config": _OWN_CACHE,
    "max_cache_len": _OWN_CACHE,
    "compile_config": "the graph is compiled when the bundle is opened; runtime= says by which runtime",
    "assistant_early_exit": _DRAFTS,
    "use_mtp": _DRAFTS,
    "speculation_type": _DRAFTS,
    "penalty_alpha": "contrastive search needs inner states; do_sample, top_k and repetition_penalty vary texts here",
    "dola_layers": "DoLa needs the states of inner layers, which a bundle does not return",
    "num_beam_groups": "num_beams searches beams here, and do_sample varies them",
    "diversity_penalty": "num_beams searches beams here, and do_sample varies them",
    "constraints": "prefix_allowed_tokens_fn or a logits processor constrains texts here",
    "force_words_ids": "prefix_allowed_tokens_fn or a logits processor constrains texts here",
}
_MEANINGLESS: Mapping[str, Callable[[Any], bool]] = {
    # Older versions ask an assistant for "dynamic_full".
    "cache_implementation": lambda value: value in ("dynamic", "dynamic_full"),
    "num_beam_groups": lambda value: value == 1,
    "diversity_penalty": lambda value: value == 0,
    "penalty_alpha": lambda value: value == 0,
}

_FORWARD = {
    "output_attentions": _ATTENTIONS,
    "output_hidden_states": _HIDDEN,
    "inputs_embeds": "a bundle embeds token ids itself; pass input_ids",
    "labels": f"{_TRAINING}; codegen-edge evaluate measures the loss",
    "token_type_ids": "CodeGen was trained without token types; leave them out",
}

_LOADING = {
    "attn_implementation": "the bundle's graph has its attention; runtime= says what computes it",
    "quantization_config": "codegen-edge quantize writes a quantized bundle",
    "load_in_8bit": "codegen-edge quantize --scheme int8 writes a quantized bundle",
    "load_in_4bit": "codegen-edge quantize --scheme int4 writes a quantized bundle",
    "gguf_file": "export a checkpoint of torch to a bundle",
    "state_dict": "a bundle has its weights; export another checkpoint to replace them",
    "output_loading_info": "a bundle is complete, or it is refused",
    "max_memory": 'memory_limit_mib of runtime="cuda" limits it',
    "offload_folder": "a bundle is mapped into memory from its own files",
    "tp_plan": "a bundle runs on one device",
    "tp_size": "a bundle runs on one device",
    "distributed_config": "a bundle runs on one device",
}
# Of loading from a hub or of torch's weights: a bundle is a local folder, and none of these changes what is opened.
_IDLE_LOADING = (
    *("_commit_hash", "_from_auto", "_from_pipeline", "adapter_kwargs", "cache_dir", "code_revision"),
    *("force_download", "ignore_mismatched_sizes", "local_files_only", "low_cpu_mem_usage", "proxies", "revision"),
    *("subfolder", "token", "trust_remote_code", "use_safetensors", "variant", "weights_only"),
)
# What `generate` hands on to every forward pass though no model needs it.
_IDLE_FORWARD = ("assistant_tokenizer", "cache_position", "return_dict", "tokenizer")
_FLOAT32 = ("auto", "float32", "torch.float32")


def is_given(value: Any) -> bool:
    """Whether an option is set to something."""
    return value is not None and value is not False


def refuse(name: str, instead: str) -> NoReturn:
    """Raise InvalidInputError for an option."""
    raise InvalidInputError(f"{name} is not supported: {instead}")


def check_generation(config: Any, model_kwargs: Mapping[str, Any]) -> None:
    """Raise InvalidInputError for an option of `generate` that a bundle cannot follow."""
    for name, instead in _GENERATE.items():
        value = model_kwargs.get(name, getattr(config, name, None))
        if is_given(value) and not _MEANINGLESS.get(name, lambda _: False)(value):
            refuse(name, instead)
    for name in ("inputs_embeds", "labels", "token_type_ids"):
        if is_given(model_kwargs.get(name)):
            refuse(name, _FORWARD[name])


def check_forward(options: Mapping[str, Any]) -> None:
    """Raise InvalidInputError for an argument of a forward pass that a bundle does not have."""
    for name, value in options.items():
        if name in _FORWARD and is_given(value):
            refuse(name, _FORWARD[name])
        if is_given(value) and name not in _IDLE_FORWARD:
            refuse(name, "the model takes input_ids, attention_mask, position_ids and a past")


def runtime_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """What is left for the runtime of the options of `from_pretrained`.

    Raises:
        InvalidInputError: an option that would change the weights or where they lie.
    """
    for name, value in options.items():
        if name in _LOADING and is_given(value):
            refuse(name, _LOADING[name])
        if name in ("dtype", "torch_dtype") and value is not None and str(value) not in _FLOAT32:
            refuse(f"{name}={value}", "codegen-edge build --compute or quantize writes a bundle of another precision")
        if name == "device_map" and value not in (None, "auto", "cpu", {"": "cpu"}):
            refuse(f"device_map={value!r}", 'runtime="cuda" or "tensorrt" computes on a GPU')
    known = {*_LOADING, *_IDLE_LOADING, "dtype", "torch_dtype", "device_map"}
    return {name: value for name, value in options.items() if name not in known}


def refuse_training() -> NoReturn:
    """Raise InvalidInputError for what only a model with gradients can do."""
    refuse("training", _TRAINING)


def refuse_batches() -> NoReturn:
    """Raise InvalidInputError for transformers' own continuous batching."""
    refuse("continuous batching", _BATCHES)
