"""Runtimes that need a GPU, for the tests that every runtime runs: built on the spot, or skipped with the reason."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import NoReturn

import pytest

from codegen_edge.bundle import Bundle
from codegen_edge.errors import RuntimeUnavailableError
from codegen_edge.ort_session import load_cuda_provider
from codegen_edge.runtimes import Runtime, open_runtime
from codegen_edge.runtimes.builders import EngineOptions, build_engines, build_half
from codegen_edge.runtimes.builders.engine_builder import EngineBuilder
from codegen_edge.runtimes.devices.cuda import list_gpus
from codegen_edge.runtimes.tensorrt_library import load_tensorrt


@functools.cache
def missing(name: str) -> str | None:
    """Why a runtime cannot be had here; None where it can."""
    try:
        if name == "cuda":
            load_cuda_provider()
        else:
            library = load_tensorrt()
        gpu = list_gpus()[0]
    except RuntimeUnavailableError as exc:
        return str(exc)
    if name == "tensorrt":
        try:
            library.require_support(gpu.name, gpu.compute_capability)
        except RuntimeUnavailableError as exc:
            # Nothing that could be installed from the index mends that, so `make test-gpu` does not fail with it.
            pytest.skip(str(exc))
    return None


def skip_or_fail(reason: str) -> NoReturn:
    """Skip a test; where the run is for GPUs (`make test-gpu`), fail it."""
    if os.environ.get("CODEGEN_EDGE_NEEDS_GPU"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


class GpuBundles:
    """Builds each bundle once a session."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._built: dict[tuple[str, Path], Bundle] = {}

    def open(self, name: str, bundle: Bundle) -> Runtime:
        """Open `bundle`, built for a runtime; skips the test where that cannot be had."""
        reason = missing(name)
        if reason is not None:
            skip_or_fail(f"{name}: {reason}")
        key = (name, bundle.path)
        if key not in self._built:
            out = self._folder / f"{len(self._built)}-{name}"
            if name == "cuda":
                self._built[key] = build_half(bundle, out)
            else:
                options = EngineOptions(chunk=8, batch_size=8)
                self._built[key] = build_engines(bundle, out, EngineBuilder(load_tensorrt()), options)
        return open_runtime(name, self._built[key])
