"""What this machine has of what codegen-edge can use."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass

from codegen_edge.errors import RuntimeUnavailableError

_EXPORT_PACKAGES = (
    "torch",
    "transformers",
    "onnx",
    "onnxscript",
    "onnx-ir",
    "safetensors",
    "huggingface-hub",
)
_BASE_PACKAGES = ("codegen-edge", "numpy", "click", "rich", "tokenizers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One part of codegen-edge on this machine.

    Attributes:
        part: what it is.
        is_ok: whether it can be used.
        found: versions and devices that were found.
        remedy: the command that mends it; empty when it is fine.
        can_generate: whether the part is a runtime.
    """

    part: str
    is_ok: bool
    found: str
    remedy: str = ""
    can_generate: bool = False


def diagnose() -> list[Finding]:
    """Look at every part: the base, the exporter, the runtimes."""
    return [_base(), _exporter(), _cpu_runtime()]


def installed_version(package: str) -> str | None:
    """Version of an installed distribution, None when it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _base() -> Finding:
    versions = [f"{name} {installed_version(name)}" for name in _BASE_PACKAGES]
    return Finding(part="base", is_ok=True, found=f"Python {platform.python_version()}, {', '.join(versions)}")


def _exporter() -> Finding:
    versions = {name: installed_version(name) for name in _EXPORT_PACKAGES}
    missing = [name for name, version in versions.items() if version is None]
    found = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    if missing:
        remedy = f'lacks {", ".join(missing)}: pip install "codegen-edge[export]"'
        return Finding(part="export and verify", is_ok=False, found=found, remedy=remedy)
    return Finding(part="export and verify", is_ok=True, found=found)


def _cpu_runtime() -> Finding:
    part = "runtime cpu"
    cpu, gpu = installed_version("onnxruntime"), installed_version("onnxruntime-gpu")
    if cpu and gpu:
        return Finding(
            part=part,
            is_ok=False,
            found=f"onnxruntime {cpu} and onnxruntime-gpu {gpu} in one folder",
            remedy="pip uninstall -y onnxruntime onnxruntime-gpu, then install one of them",
            can_generate=True,
        )
    try:
        from codegen_edge.ort_session import PROVIDER, default_threads, load_onnxruntime

        ort = load_onnxruntime()
    except RuntimeUnavailableError as exc:
        remedy = 'pip install "codegen-edge[cpu]"'
        return Finding(part=part, is_ok=False, found=str(exc), remedy=remedy, can_generate=True)
    providers = ort.get_available_providers()
    return Finding(
        part=part,
        is_ok=PROVIDER in providers,
        found=f"onnxruntime {ort.__version__}, {', '.join(providers)}, {default_threads()} threads",
        remedy="" if PROVIDER in providers else 'pip install --force-reinstall "codegen-edge[cpu]"',
        can_generate=True,
    )
