"""Saying which extra a command needs, before an import fails in the middle."""

from __future__ import annotations

import importlib.util

from codegen_edge.errors import RuntimeUnavailableError

_EXPORT_MODULES = ("torch", "transformers", "onnx", "onnxscript", "onnx_ir", "safetensors", "huggingface_hub")

_QUANTIZE_MODULES = ("onnx", "onnx_ir", "onnxruntime")


def require_export_extra(*, with_runtime: bool = True) -> None:
    """Raise RuntimeUnavailableError when a package of the export extra, or onnxruntime, is missing."""
    needed = (*_EXPORT_MODULES, "onnxruntime") if with_runtime else _EXPORT_MODULES
    _require(needed)


def require_quantize_extra() -> None:
    """Raise RuntimeUnavailableError when a package that quantizing needs is missing; torch is none of them."""
    _require(_QUANTIZE_MODULES)


def _require(modules: tuple[str, ...]) -> None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise RuntimeUnavailableError(
            f'this command needs {", ".join(missing)}. Install the export extra: pip install "codegen-edge[export,cpu]"'
        )
