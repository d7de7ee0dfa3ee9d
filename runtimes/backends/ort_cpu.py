"""The `cpu` runtime: ONNX Runtime's CPU provider."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codegen_edge.bundle import Bundle, contract
from codegen_edge.errors import RuntimeUnavailableError
from codegen_edge.ort_session import open_session
from codegen_edge.runtimes.backends.kv_buffers import cache_dtype
from codegen_edge.runtimes.backends.ort import CPU_PREFILL_CHUNK, OrtRuntime, require_cpu_graph

_ONE_SCALE = b"DynamicQuantizeMatMul"
_FLOAT_ACTIVATIONS = 1  # of MatMulNBits' accuracy_level (ContribOperators.md)


class OrtCpuRuntime(OrtRuntime):
    """The `cpu` runtime.

    Args:
        bundle: text-generation, target ort, computing in float32.
        threads: CPU threads; None takes all that this process may use.
        weights: float weights to compute with instead of the bundle's own, by name.
        rounds_activations: False computes int8 and int4 products with float activations, as GPUs do; slowly.
    """

    prefill_chunk = CPU_PREFILL_CHUNK

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        weights: Mapping[str, NDArray[np.float32]] | None = None,
        rounds_activations: bool = True,
    ) -> None:
        bundle.require_task("text-generation")
        require_cpu_graph(bundle)
        if rows_meet(bundle):
            warnings.warn(
                f"{bundle.model_path} rounds the activations of all rows of a step with one scale: what a row "
                "generates depends on the rows beside it. Quantize the fp32 bundle again",
                stacklevel=3,
            )
        with bundle.reading():
            if rounds_activations:
                session = open_session(bundle.at(contract.MODEL_FILE), threads, weights=weights)
            else:
                graph, folder = _with_float_activations(bundle)
                session = open_session(graph, threads, weights=weights, weights_folder=folder)
        super().__init__("cpu", bundle, session, cache_dtype=cache_dtype(bundle.manifest))


def rows_meet(bundle: Bundle) -> bool:
    """Whether the graph takes one activation scale for all rows of a step; later versions write no such one."""
    return bundle.manifest.precision == "int8-dynamic" and _ONE_SCALE in bundle.read(contract.MODEL_FILE)


def _with_float_activations(bundle: Bundle) -> tuple[bytes, Path]:
    """The graph with every MatMulNBits at accuracy_level 1, which leaves its activations in float32; and its folder."""
    import onnx_ir as ir

    from codegen_edge.bundle.graph_file import read_model, session_source

    model = read_model(bundle)
    for node in model.graph:
        if node.op_type == "MatMulNBits":
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", _FLOAT_ACTIVATIONS)
    return session_source(bundle, model)


def open_runtime(bundle: Bundle, *, threads: int | None = None, exact_steps: bool = False) -> OrtRuntime:
    """Open a bundle with the `cpu` runtime.

    Args:
        bundle: text-generation, target ort, computing in float32.
        threads: CPU threads; None takes all that this process may use.
        exact_steps: whether a token's logits are the same bits however the text before it was read: at once, in
            chunks, token by token, with drafts, beside other rows, or from a saved session.

    Raises:
        RuntimeUnavailableError: exact steps are not to be had with this bundle on this machine.
    """
    if exact_steps:
        try:
            from codegen_edge.runtimes.backends.ort_exact import ExactOrtRuntime
        except ImportError as exc:
            raise RuntimeUnavailableError(
                f"exact steps change the graph when it is loaded, which needs onnx-ir ({exc}): pip install onnx-ir"
            ) from exc
        return ExactOrtRuntime(bundle, threads=threads)
    return OrtCpuRuntime(bundle, threads=threads)
