"""What is measured beside each other: a program, a precision, and the form of the model that it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["ours", "peer", "floor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One row of the result.

    Attributes:
        name: as the tables show it.
        precision: its class: "fp32", "bf16", "int8" or "int4". Rows of one class are compared.
        worker: module of benchmarks.peers.workers.
        artifact: the form of the model that it reads, of artifacts.py.
        peer: whose environment it runs in; "" for our own.
        role: ours, a peer, or our floor, which is no peer: the same graph without our loop.
        options: of the worker, beside model, precision and threads.
    """

    name: str
    precision: str
    worker: str
    artifact: str
    peer: str = ""
    role: Role = "peer"
    options: Mapping[str, Any] = field(default_factory=dict)


def _openvino(precision: str) -> tuple[System, System]:
    shared: dict[str, Any] = {"precision": precision, "artifact": f"openvino-{precision}", "peer": "openvino"}
    return (
        System(name=f"optimum-intel {precision}", worker="optimum_intel", **shared),
        System(name=f"OpenVINO GenAI {precision}", worker="openvino_genai", **shared),
    )


def _on_our_bundle(precision: str) -> tuple[System, System]:
    shared: dict[str, Any] = {"precision": precision, "artifact": f"ours-{precision}"}
    return (
        System(
            name=f"onnxruntime-genai on our {precision}", worker="onnxruntime_genai", peer="onnxruntime-genai", **shared
        ),
        System(
            name=f"onnxruntime on our {precision}", worker="onnxruntime", peer="onnxruntime", role="floor", **shared
        ),
    )


def _ours(scheme: str, precision: str, *, has_int8_cache: bool = False) -> System:
    name, artifact = f"codegen-edge {scheme}", f"ours-{scheme}"
    if has_int8_cache:
        name, artifact = f"{name}, int8 KV cache", f"{artifact}+kv"
    return System(name=name, precision=precision, worker="ours", artifact=artifact, role="ours")


def _torch(kind: str, precision: str, **options: Any) -> System:
    name = f"transformers {kind} {precision}"
    return System(
        name=name,
        precision=precision,
        worker="transformers",
        artifact="checkpoint",
        peer="transformers",
        options=options,
    )


OUR_FP32 = _ours("fp32", "fp32")

# What takes turns with each other; the first one, ours, is measured twice in every round.
GROUPS: dict[str, tuple[System, ...]] = {
    "fp32": (
        OUR_FP32,
        _torch("eager", "fp32"),
        _torch("compiled", "fp32", is_compiled=True),
        _torch("eager", "bf16"),
        System(
            name="optimum-onnx fp32",
            precision="fp32",
            worker="optimum_onnx",
            artifact="optimum-fp32",
            peer="optimum-onnx",
        ),
        System(
            name="CTranslate2 fp32",
            precision="fp32",
            worker="ctranslate2",
            artifact="ctranslate2-fp32",
            peer="ctranslate2",
        ),
        *_openvino("fp32"),
        _on_our_bundle("fp32")[1],
    ),
    "int8": (
        _ours("int8", "int8"),
        _ours("int8", "int8", has_int8_cache=True),
        _ours("int8-dynamic", "int8"),
        System(
            name="optimum-onnx int8",
            precision="int8",
            worker="optimum_onnx",
            artifact="optimum-int8",
            peer="optimum-onnx",
        ),
        System(
            name="CTranslate2 int8",
            precision="int8",
            worker="ctranslate2",
            artifact="ctranslate2-int8",
            peer="ctranslate2",
        ),
        *_openvino("int8"),
        *_on_our_bundle("int8"),
        OUR_FP32,  # a prefill in int8 must not be slower
    ),
    "int4": (
        _ours("int4", "int4"),
        _ours("int4", "int4", has_int8_cache=True),
        *_openvino("int4"),
        *_on_our_bundle("int4"),
    ),
}
