"""The `cuda` runtime: ONNX Runtime's CUDA provider, with keys and values on the GPU."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from codegen_edge import contract
from codegen_edge.bundle import Bundle
from codegen_edge.errors import BundleError, InvalidInputError, RuntimeUnavailableError
from codegen_edge.ort_session import load_onnxruntime
from codegen_edge.runtimes.backends.ort import OrtRuntime
from codegen_edge.runtimes.devices.cuda import INSTALL, CudaDevice

NAME = "cuda"
PROVIDER = "CUDAExecutionProvider"
_CPU_PROVIDER = "CPUExecutionProvider"
_CACHE_DTYPES: dict[contract.Compute, type[np.generic]] = {
    "fp16": np.float16,
    "bf16": np.uint16,  # its bits: numpy has no bfloat16
}
# Integers of a few bytes, from the mask: ONNX Runtime keeps them on the host on purpose.
_SHAPE_OPERATORS = {"Shape", "ReduceSum", "Sub", "Neg", "Gather", "Cast", "Squeeze", "Unsqueeze"}
_FLOAT_NODES = {"logits.Cast"}  # of these operators, but over floats
_PLACEMENT = "session.record_ep_graph_assignment_info"  # onnxruntime_session_options_config_keys.h


def load_cuda_provider() -> Any:
    """Import onnxruntime with its CUDA provider and the CUDA libraries.

    Raises:
        RuntimeUnavailableError: the package is the one for CPUs, or a library of CUDA is missing.
    """
    ort = load_onnxruntime()
    if PROVIDER not in ort.get_available_providers():
        raise RuntimeUnavailableError(
            f"onnxruntime {ort.__version__} has no {PROVIDER}: pip uninstall -y onnxruntime, then {INSTALL}"
        )
    told = io.StringIO()
    with contextlib.redirect_stdout(told):  # it prints what it cannot load
        ort.preload_dlls()
    if "Failed to load" in told.getvalue():
        raise RuntimeUnavailableError(f"CUDA's libraries cannot be loaded ({told.getvalue().strip()}): {INSTALL}")
    return ort


def open_device_session(
    bundle: Bundle,
    ort: Any,
    providers: Sequence[tuple[str, dict[str, str]]],
    *,
    allow_cpu_nodes: bool = False,
) -> Any:
    """Open the bundle's graph on the first of `providers`, and prove that its nodes are there.

    Raises:
        RuntimeUnavailableError: the provider was not given, or nodes over floats fell to the CPU.
        BundleError: onnxruntime refuses the graph.
    """
    wanted = providers[0][0]
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors are raised; they need not be logged as well
    options.add_session_config_entry(_PLACEMENT, "1")
    told = io.StringIO()
    try:
        with contextlib.redirect_stdout(told):
            session = ort.InferenceSession(
                str(bundle.model_path), options, providers=list(providers), enable_fallback=0
            )
    # onnxruntime's exceptions share no base but Exception.
    except Exception as exc:
        raise BundleError(f"onnxruntime {ort.__version__} refuses {bundle.model_path}: {exc}") from exc
    session.disable_fallback()
    if session.get_providers()[0] != wanted:
        raise RuntimeUnavailableError(
            f"{wanted} was asked for, onnxruntime {ort.__version__} gave {session.get_providers()} "
            f"({told.getvalue().strip() or 'without a reason'}): codegen-edge doctor"
        )
    strays = cpu_nodes(session, wanted)
    if strays and not allow_cpu_nodes:
        raise RuntimeUnavailableError(
            f"{len(strays)} nodes would be computed by the CPU: {', '.join(strays[:8])}; allow that with "
            "--allow-cpu-nodes, or build the bundle in another precision"
        )
    return session


def cpu_nodes(session: Any, wanted: str) -> list[str]:
    """Operators and names of the nodes over floats that are not on the provider that was asked for."""
    return [
        f"{node.op_type} {node.name}".strip()
        for subgraph in session.get_provider_graph_assignment_info()
        if subgraph.ep_name != wanted
        for node in subgraph.get_nodes()
        if node.op_type not in _SHAPE_OPERATORS or node.name in _FLOAT_NODES
    ]


def open_runtime(
    bundle: Bundle, *, device_id: int = 0, memory_limit_mib: int | None = None, allow_cpu_nodes: bool = False
) -> OrtRuntime:
    """Open a bundle with the `cuda` runtime.

    Args:
        bundle: what `codegen-edge build --runtime cuda` wrote.
        device_id: of the GPU, among those that the process sees.
        memory_limit_mib: of ONNX Runtime's arena; weights, and keys and values, count.
        allow_cpu_nodes: whether nodes that CUDA does not have may be computed by the CPU.

    Raises:
        BundleError: the bundle was not built for this.
        RuntimeUnavailableError: no GPU, no driver, no library; nodes would be computed by the CPU.
    """
    bundle.require_task("text-generation")
    bundle.require_graph(NAME, target="ort", compute=("fp16", "bf16"))
    if memory_limit_mib is not None and memory_limit_mib < 1:
        raise InvalidInputError(f"memory_limit_mib must be at least 1, got {memory_limit_mib}")
    ort = load_cuda_provider()
    device = CudaDevice(device_id)
    settings = {"device_id": str(device_id), "arena_extend_strategy": "kSameAsRequested"}
    if memory_limit_mib is not None:
        settings["gpu_mem_limit"] = str(memory_limit_mib * 2**20)
    providers = [(PROVIDER, settings), (_CPU_PROVIDER, {})]
    session = open_device_session(bundle, ort, providers, allow_cpu_nodes=allow_cpu_nodes)
    return OrtRuntime(NAME, bundle, session, cache_dtype=_CACHE_DTYPES[bundle.manifest.compute], device=device)
