"""The `cpu` runtime: ONNX Runtime's CPU provider."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from codegen_edge import contract
from codegen_edge.bundle import Bundle
from codegen_edge.ort_session import open_session
from codegen_edge.runtimes.backends.ort import OrtRuntime

_CACHE_DTYPES: dict[contract.KVPrecision, type[np.generic]] = {"fp32": np.float32, "int8": np.int8}


class OrtCpuRuntime(OrtRuntime):
    """The `cpu` runtime.

    Args:
        bundle: text-generation, target ort, computing in float32.
        threads: CPU threads; None takes all that this process may use.
        weights: float weights to compute with instead of the bundle's own, by name.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        weights: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> None:
        bundle.require_task("text-generation")
        bundle.require_graph("cpu", target="ort", compute=("fp32",))
        session = open_session(bundle.model_path, threads, weights=weights)
        super().__init__("cpu", bundle, session, cache_dtype=_CACHE_DTYPES[bundle.manifest.kv_cache])


def open_runtime(bundle: Bundle, *, threads: int | None = None) -> OrtCpuRuntime:
    """Open a bundle with the `cpu` runtime."""
    return OrtCpuRuntime(bundle, threads=threads)
