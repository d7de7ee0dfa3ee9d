"""ONNX Runtime sessions on the CPU provider: opened, and proved to be there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codegen_edge.dependencies import disable_telemetry, install_command, require_versions
from codegen_edge.errors import BundleError, InvalidInputError, RuntimeUnavailableError

PROVIDER = "CPUExecutionProvider"
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
    most_threads = _THREADS_PER_CPU * (os.cpu_count() or 1)
    if threads is not None and not 1 <= threads <= most_threads:
        raise InvalidInputError(f"threads must be in 1…{most_threads} on this machine, got {threads}")
    ort = load_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or default_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised; they need not be logged as well
    if weights_folder is not None:
        options.add_session_config_entry(_WEIGHTS_FOLDER, str(weights_folder))
    replaced = {name: ort.OrtValue.ortvalue_from_numpy(weight) for name, weight in (weights or {}).items()}
    if replaced:
        options.add_external_initializers(list(replaced), list(replaced.values()))
    source = model if isinstance(model, bytes) else str(model)
    shown = weights_folder if isinstance(model, bytes) else model
    try:
        session = ort.InferenceSession(source, options, providers=[PROVIDER], enable_fallback=0)
    # onnxruntime's exceptions share no base but Exception.
    except Exception as exc:
        raise BundleError(f"onnxruntime {ort.__version__} refuses {shown}: {exc}") from exc
    session.disable_fallback()
    if session.get_providers() != [PROVIDER]:
        raise RuntimeUnavailableError(
            f"{PROVIDER} was asked for, onnxruntime {ort.__version__} gave {session.get_providers()}"
        )
    return session
