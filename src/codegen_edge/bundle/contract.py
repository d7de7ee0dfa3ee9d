"""The graph contract: the names and axes that every exported graph and every client of it agree on.

Axes, used in every shape comment of the project:
    B batch · T new tokens · P past · S = P + T · C cache capacity · H heads · D head_dim · V vocab · L layers

`text-generation` graph:
    inputs   input_ids [B, T] int64, attention_mask [B, S] int64,
             past_key_values.{i}.key|value [B, H, P, D], num_logits_to_keep [1] int64 (default 0: all T)
    outputs  logits [B, T, V], present.{i}.key|value [B, H, S, D]
`feature-extraction` graph:
    inputs   input_ids [B, T], attention_mask [B, T]
    outputs  last_hidden_state [B, T, H*D]

`text-generation` graph of target `tensorrt`, whose buffers have a fixed capacity:
    inputs   input_ids [B, T] int64, past_length [B] int64, past_key_values.{i}.key|value [B, H, C, D]
    outputs  logits [B, T, V], present.{i}.key|value [B, H, C, D]
    Row b's new tokens are written at past_length[b] of the buffer, whose past is present with them.

The names of the dynamic axes are part of the contract: transformers.js takes an unknown axis of the past for 0,
and optimum evaluates the names as expressions. The mask means right padding: row b holds sum(mask[b]) tokens.
Past and present are float32, or int8 in a bundle whose manifest says so. In a bundle that was built for a GPU they
are of the dtype that it computes in, float16 or bfloat16; logits are float32 everywhere. There, `logits_start` [1]
int64 (default 0: all T; -1: the last) stands in the place of num_logits_to_keep: nothing is computed of it, so that a
GPU need not hand a number back to the host in the middle of a step.
A caller may bind one buffer of capacity C as past and present of a layer (then P is C on both sides).
"""

from __future__ import annotations

from typing import Literal, get_args

Task = Literal["text-generation", "feature-extraction"]
Target = Literal["ort", "tensorrt"]
KVPrecision = Literal["float", "int8"]
Compute = Literal["fp32", "fp16", "bf16"]
Processor = Literal["any", "vnni"]
KVPart = Literal["key", "value"]

TASKS: tuple[Task, ...] = get_args(Task)
TARGETS: tuple[Target, ...] = get_args(Target)
KV_PRECISIONS: tuple[KVPrecision, ...] = get_args(KVPrecision)
COMPUTES: tuple[Compute, ...] = get_args(Compute)
PROCESSORS: tuple[Processor, ...] = get_args(Processor)
KV_PARTS: tuple[KVPart, ...] = get_args(KVPart)

FULL_PRECISION = "fp32"
"""The precision of a bundle as it is exported; every other one is the name of a quantization scheme."""

DTYPE_NAMES: dict[str, str] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "int8"}
"""What a graph computes in and what its cache holds, as numpy and ONNX name it."""

ITEM_BYTES: dict[str, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
"""Bytes of one value of each."""

INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
NUM_LOGITS_TO_KEEP = "num_logits_to_keep"
LOGITS_START = "logits_start"
PAST_LENGTH = "past_length"
LOGITS = "logits"
LAST_HIDDEN_STATE = "last_hidden_state"

AXIS_BATCH = "batch_size"
AXIS_NEW = "sequence_length"
AXIS_PAST = "past_sequence_length"
AXIS_CAPACITY = "capacity"
AXIS_TOTAL = "past_sequence_length + sequence_length"

MODEL_FILE = "onnx/model.onnx"
WEIGHTS_FILE = "onnx/model.onnx_data"


def past_name(layer: int, part: KVPart) -> str:
    """Name of a layer's past input, for example `past_key_values.0.key`."""
    return f"past_key_values.{layer}.{part}"


def present_name(layer: int, part: KVPart) -> str:
    """Name of a layer's present output, for example `present.0.key`."""
    return f"present.{layer}.{part}"
