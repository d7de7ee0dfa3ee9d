"""The files beside the graph, by which other people's programs load a bundle unchanged."""

from __future__ import annotations

import json
from typing import Any

from codegen_edge.bundle import Source, contract
from codegen_edge.exporter.checkpoint import Checkpoint


def client_files(
    checkpoint: Checkpoint, task: contract.Task, target: contract.Target, source: Source
) -> dict[str, bytes]:
    """Content by file name: configs of transformers(.js) and onnxruntime-genai, tokenizer, model card."""
    files = {
        **checkpoint.tokenizer_files,
        "config.json": _json(_config(checkpoint, task)),
        "README.md": _model_card(checkpoint, task, source).encode(),
    }
    if task == "text-generation":
        files["generation_config.json"] = _json(_generation_config(checkpoint))
        if target == "ort":  # onnxruntime-genai knows no graph with a past length
            files["genai_config.json"] = _json(_genai_config(checkpoint))
    return files


def _json(fields: dict[str, Any]) -> bytes:
    return (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode()


def _config(checkpoint: Checkpoint, task: contract.Task) -> dict[str, Any]:
    architecture = "CodeGenForCausalLM" if task == "text-generation" else "CodeGenModel"
    return {
        "architectures": [architecture],
        **checkpoint.hub_config,
        "dtype": "float32",
        # transformers.js fetches the data file only where this says that there is one.
        "transformers.js_config": {"use_external_data_format": True},
    }


def _generation_config(checkpoint: Checkpoint) -> dict[str, Any]:
    eos = checkpoint.model.eos_token_id
    return {"bos_token_id": eos, "eos_token_id": eos, "pad_token_id": eos, "use_cache": True}


def _genai_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """https://onnxruntime.ai/docs/genai/reference/config.html; type "decoder" is any decoder-only graph."""
    model = checkpoint.model
    return {
        "model": {
            "type": "decoder",
            "bos_token_id": model.eos_token_id,
            "eos_token_id": model.eos_token_id,
            "pad_token_id": model.eos_token_id,
            "context_length": model.context_length,
            "vocab_size": model.vocab_size,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": contract.MODEL_FILE,
                "head_size": model.head_dim,
                "hidden_size": model.hidden_size,
                "num_attention_heads": model.num_heads,
                "num_hidden_layers": model.num_layers,
                "num_key_value_heads": model.num_heads,
                "inputs": {
                    "input_ids": contract.INPUT_IDS,
                    "attention_mask": contract.ATTENTION_MASK,
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": contract.LOGITS,
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {
            "do_sample": False,
            "max_length": model.context_length,
            "num_beams": 1,
            "past_present_share_buffer": True,
        },
    }


def _model_card(checkpoint: Checkpoint, task: contract.Task, source: Source) -> str:
    model = checkpoint.model
    revision = f" (revision `{source.revision}`)" if source.revision else ""
    repairs = "".join(f"- {sentence}\n" for sentence in source.repairs) or "- nothing\n"
    return f"""---
library_name: codegen-edge
pipeline_tag: {task}
tags: [codegen, onnx, onnxruntime]
---

# {source.name}, exported to ONNX

Made of the CodeGen checkpoint `{source.name}`{revision} by codegen-edge. The licence is the checkpoint's.
`bundle.json` holds the hash of the source, of every file here, and the verdict of the comparison with the reference.

- task: {task}
- layers: {model.num_layers}, hidden size {model.hidden_size}, heads {model.num_heads}, rotary dim {model.rotary_dim}
- context: {model.context_length} tokens, vocabulary: {model.vocab_size}

Put right in the source's files:

{repairs}
## Use

    codegen-edge generate THIS_FOLDER --prompt "def hello_world():"

The folder also loads unchanged in onnxruntime-genai, optimum-onnx (`ORTModelForCausalLM`) and transformers.js.
The attention mask means right padding: clients that pad on the left are right at batch size 1 only.
"""
