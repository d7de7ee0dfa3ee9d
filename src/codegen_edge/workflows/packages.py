"""The packages that a workflow needs, asked for by name before an import fails in the middle."""

from __future__ import annotations

import importlib.util

from codegen_edge.dependencies import EXPORT_PACKAGES, install_command, require_versions
from codegen_edge.errors import RuntimeUnavailableError

_QUANTIZE_PACKAGES = ("onnx", "onnx-ir", "onnxruntime")


def require_export_packages(*, with_runtime: bool = True) -> None:
    """Raise RuntimeUnavailableError when a package of the export extra, or onnxruntime, is missing."""
    _require((*EXPORT_PACKAGES, "onnxruntime") if with_runtime else EXPORT_PACKAGES)


def require_quantize_packages() -> None:
    """Raise RuntimeUnavailableError when a package that quantizing needs is missing; torch is none of them."""
    _require(_QUANTIZE_PACKAGES)


def require_hub_package() -> None:
    """Raise RuntimeUnavailableError when what talks to the hub is missing."""
    _require(("huggingface-hub",))


def _require(packages: tuple[str, ...]) -> None:
    # By module: onnxruntime-gpu brings the same one as onnxruntime.
    missing = [name for name in packages if importlib.util.find_spec(name.replace("-", "_")) is None]
    if missing:
        raise RuntimeUnavailableError(
            f"this command needs {', '.join(missing)}. Install the export extra: {install_command('export', 'cpu')}"
        )
    require_versions(*packages)
