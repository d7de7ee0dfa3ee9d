"""ONNX Runtime sessions: opened on the provider that was asked for, and proved to be there."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codegen_edge.dependencies import disable_telemetry, install_command, require_versions
from codegen_edge.errors import BundleError, InvalidInputError, RuntimeUnavailableError

PROVIDER = "CPUExecutionProvider"
CUDA_PROVIDER = "CUDAExecutionProvider"
# How long a thread that waits for the others keeps its core. By default that is until a whole run is over, which beside
# one busy process was a third of the time (docs/performance.md). onnxruntime before 1.32 does not know the setting.
THREADING = {"session.intra_op.spin_duration_us": "20"}

# Of the mask, integers of a few bytes: ONNX Runtime keeps them on the host on purpose. No other node of the graph has
# one of these operators but the cast of the logits.
_SHAPE_OPERATORS = {"Shape", "ReduceSum", "Sub", "Cast"}
_FLOAT_NODES = {"logits.Cast"}
_PLACEMENT = "session.record_ep_graph_assignment_info"  # onnxruntime_session_options_config_keys.h
_THREADS_PER_CPU = 16  # more only waste memory; thousands stall
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"  # onnxruntime_session_options_config_keys.h


def load_onnxruntime() -> Any:
    """Import onnxruntime, without its telemetry.

    Raises:
        RuntimeUnavailableError: it is missing; names the extra to install.
        IncompatibleVersionError: it is too old or too new.
    """
    disable_telemetry()
    _require_supported_version()
    try:
        import onnxruntime
    except ImportError as exc:
        if isinstance(exc.__cause__ or exc.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from exc  # its compiled module reports Ctrl-C so
        raise RuntimeUnavailableError(
            f"the cpu runtime needs onnxruntime ({exc}). Install it with: {install_command('cpu')}"
        ) from exc
    return onnxruntime


@cache
def _require_supported_version() -> None:
    require_versions("onnxruntime", "onnxruntime-gpu")


def default_threads() -> int:
    """Number of CPU threads that this process may use (its affinity, where the system reports it)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_threads(threads: object) -> None:
    """Raise InvalidInputError unless it is a number of threads, or None for all."""
    most = _THREADS_PER_CPU * (os.cpu_count() or 1)
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or not 1 <= threads <= most):
        raise InvalidInputError(f"threads must be an integer in 1…{most} on this machine, got {threads!r}")


def open_session(
    model: Path | bytes,
    threads: int | None,
    *,
    weights_folder: Path | None = None,
    weights: Mapping[str, NDArray[np.float32]] | None = None,
) -> Any:
    """Open a graph on the CPU provider and prove that it is there.

    Args:
        model: the graph's file, or its bytes.
        threads: CPU threads; None takes all that this process may use.
        weights_folder: where the data file of a graph given as bytes lies.
        weights: float weights to compute with instead of the graph's own, by name.

    Raises:
        InvalidInputError: `threads` is below 1 or absurdly many.
        RuntimeUnavailableError: onnxruntime is missing or gave another provider.
        BundleError: onnxruntime refuses the graph.
    """
    check_threads(threads)
    ort = load_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or default_threads()
    options.inter_op_num_threads = 1
    for name, value in THREADING.items():
        options.add_session_config_entry(name, value)
    if weights_folder is not None:
        options.add_session_config_entry(_WEIGHTS_FOLDER, str(weights_folder))
    replaced = {name: ort.OrtValue.ortvalue_from_numpy(weight) for name, weight in (weights or {}).items()}
    if replaced:
        options.add_external_initializers(list(replaced), list(replaced.values()))
    source = model if isinstance(model, bytes) else str(model)
    shown = weights_folder if isinstance(model, bytes) else model
    session = _open(ort, source, options, [PROVIDER], shown=shown)
    if session.get_providers() != [PROVIDER]:
        raise RuntimeUnavailableError(
            f"{PROVIDER} was asked for, onnxruntime {ort.__version__} gave {session.get_providers()}"
        )
    return session


def load_cuda_provider() -> Any:
    """Import onnxruntime with its CUDA provider and the CUDA libraries.

    Raises:
        RuntimeUnavailableError: the package is the one for CPUs, or a library of CUDA is missing.
    """
    ort = load_onnxruntime()
    if CUDA_PROVIDER not in ort.get_available_providers():
        raise RuntimeUnavailableError(
            f"onnxruntime {ort.__version__} has no {CUDA_PROVIDER}: pip uninstall -y onnxruntime, then "
            f"{install_command('cuda')}"
        )
    reported = io.StringIO()
    with contextlib.redirect_stdout(reported):  # it prints what it cannot load
        ort.preload_dlls()
    if "Failed to load" in reported.getvalue():
        raise RuntimeUnavailableError(
            f"CUDA's libraries cannot be loaded ({reported.getvalue().strip()}): {install_command('cuda')}"
        )
    return ort


def open_device_session(
    model: Path,
    ort: Any,
    providers: Sequence[tuple[str, dict[str, str]]],
    *,
    allow_cpu_nodes: bool = False,
) -> Any:
    """Open a graph on the first of `providers`, and prove that its nodes are there.

    Raises:
        RuntimeUnavailableError: the provider was not given, or nodes over floats fell to the CPU.
        BundleError: onnxruntime refuses the graph.
    """
    wanted = providers[0][0]
    options = ort.SessionOptions()
    options.add_session_config_entry(_PLACEMENT, "1")
    reported = io.StringIO()
    with contextlib.redirect_stdout(reported):
        session = _open(ort, str(model), options, providers, shown=model)
    if session.get_providers()[0] != wanted:
        raise RuntimeUnavailableError(
            f"{wanted} was asked for, onnxruntime {ort.__version__} gave {session.get_providers()} "
            f"({reported.getvalue().strip() or 'without a reason'})",
            hint="codegen-edge doctor",
        )
    strays = cpu_nodes(session, wanted)
    if strays and not allow_cpu_nodes:
        raise RuntimeUnavailableError(
            f"{len(strays)} nodes would be computed by the CPU: {', '.join(strays[:8])}; allow that, or build the "
            "bundle in another precision",
            hint="--allow-cpu-nodes",
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


def _open(ort: Any, source: str | bytes, options: Any, providers: Sequence[Any], *, shown: Path | None) -> Any:
    """Open a session that never falls back; raise BundleError where onnxruntime refuses the graph."""
    options.log_severity_level = 4  # errors are raised; they need not be logged as well
    try:
        session = ort.InferenceSession(source, options, providers=list(providers), enable_fallback=0)
    # onnxruntime's exceptions share no base but Exception.
    except Exception as exc:
        raise BundleError(f"onnxruntime {ort.__version__} refuses {shown}: {exc}") from exc
    session.disable_fallback()
    return session
