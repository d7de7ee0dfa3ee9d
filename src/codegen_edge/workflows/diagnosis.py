"""What this machine has of what codegen-edge can use."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass

from codegen_edge.dependencies import EXPORT_PACKAGES, install_command, installed_version, require_versions
from codegen_edge.errors import CodegenEdgeError, RuntimeUnavailableError

_BASE_PACKAGES = ("codegen-edge", "numpy", "click", "rich", "tokenizers")
_BOTH = "pip uninstall -y onnxruntime onnxruntime-gpu, then install one of them"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One part of codegen-edge on this machine.

    Attributes:
        part: what it is.
        is_ok: whether it can be used.
        found: versions and devices that were found.
        remedy: the command that repairs it; empty when it is fine.
        can_generate: whether the part is a runtime.
    """

    part: str
    is_ok: bool
    found: str
    remedy: str = ""
    can_generate: bool = False


def diagnose() -> list[Finding]:
    """Look at every part: the base, the exporter, the GPU, the runtimes."""
    cpu_runtimes = [_cpu_runtime("cpu"), _cpu_runtime("static-cpu"), _openvino()]
    return [_base(), _exporter(), *cpu_runtimes, _gpu(), _cuda(), _tensorrt()]


def _base() -> Finding:
    versions = [f"{name} {installed_version(name)}" for name in _BASE_PACKAGES]
    return Finding(part="base", is_ok=True, found=f"Python {platform.python_version()}, {', '.join(versions)}")


def _exporter() -> Finding:
    versions = {name: installed_version(name) for name in EXPORT_PACKAGES}
    missing = [name for name, version in versions.items() if version is None]
    found = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    if missing:
        remedy = f"lacks {', '.join(missing)}: {install_command('export')}"
        return Finding(part="export and verify", is_ok=False, found=found, remedy=remedy)
    try:
        require_versions(*EXPORT_PACKAGES)
        from codegen_edge.evaluation.parity.self_test import export_one_layer

        export_one_layer()
    except CodegenEdgeError as exc:
        return Finding(part="export and verify", is_ok=False, found=found, remedy=str(exc))
    return Finding(part="export and verify", is_ok=True, found=f"{found}; a one-layer model was exported and verified")


def _cpu_runtime(name: str) -> Finding:
    part = f"runtime {name}"
    cpu, gpu = installed_version("onnxruntime"), installed_version("onnxruntime-gpu")
    if cpu and gpu:
        found = f"onnxruntime {cpu} and onnxruntime-gpu {gpu} in one folder"
        return Finding(part=part, is_ok=False, found=found, remedy=_BOTH, can_generate=True)
    try:
        from codegen_edge.ort_session import PROVIDER, default_threads, load_onnxruntime

        ort = load_onnxruntime()
    except RuntimeUnavailableError as exc:
        remedy = install_command("cpu")
        return Finding(part=part, is_ok=False, found=str(exc), remedy=remedy, can_generate=True)
    providers = ort.get_available_providers()
    return Finding(
        part=part,
        is_ok=PROVIDER in providers,
        found=f"onnxruntime {ort.__version__}, {', '.join(providers)}, {default_threads()} threads",
        remedy="" if PROVIDER in providers else f"pip uninstall -y onnxruntime, then {install_command('cpu')}",
        can_generate=True,
    )


def _openvino() -> Finding:
    from codegen_edge.runtimes.backends.openvino import list_devices, load_openvino

    part = "runtime openvino"
    try:
        version = load_openvino().get_version()
        devices = list_devices()
    except RuntimeUnavailableError as exc:
        found = f"openvino {installed_version('openvino') or 'is not installed'}"
        return Finding(part=part, is_ok=False, found=found, remedy=str(exc), can_generate=True)
    listed = ", ".join(f"{name}: {full}" for name, full in devices.items())
    found = f"openvino {version}; {listed or 'no device'}"
    return Finding(part=part, is_ok=bool(devices), found=found, can_generate=True)


def _gpu() -> Finding:
    from codegen_edge.runtimes.devices.cuda import driver_cuda_version, list_gpus

    try:
        gpus = list_gpus()
        driver = driver_cuda_version()
    except RuntimeUnavailableError as exc:
        text, _, remedy = str(exc).rpartition(": ")
        return Finding(part="GPU", is_ok=False, found=text or remedy, remedy=remedy if text else "")
    reported = [
        f"{gpu.index}: {gpu.name}, compute capability {gpu.compute_capability}, {gpu.memory_bytes / 2**30:.0f} GiB"
        for gpu in gpus
    ]
    return Finding(part="GPU", is_ok=True, found=f"{'; '.join(reported)}; driver for CUDA {driver}")


def _cuda() -> Finding:
    from codegen_edge.ort_session import load_cuda_provider
    from codegen_edge.runtimes.devices.cuda import driver_cuda_version, list_gpus

    part = "runtime cuda"
    cpu, gpu = installed_version("onnxruntime"), installed_version("onnxruntime-gpu")
    if cpu and gpu:
        found = f"onnxruntime {cpu} and onnxruntime-gpu {gpu} in one folder"
        return Finding(part=part, is_ok=False, found=found, remedy=_BOTH, can_generate=True)
    found = f"onnxruntime-gpu {gpu}" if gpu else "no onnxruntime-gpu"
    try:
        ort = load_cuda_provider()
        list_gpus()
    except CodegenEdgeError as exc:
        return Finding(part=part, is_ok=False, found=found, remedy=str(exc), can_generate=True)
    built_for, driver = getattr(ort, "cuda_version", "") or "", driver_cuda_version()
    found = f"onnxruntime {ort.__version__} for CUDA {built_for or 'unknown'}, driver for CUDA {driver}"
    if built_for and _major(built_for) > _major(driver):
        remedy = f"install a driver for CUDA {_major(built_for)}, or an onnxruntime-gpu for CUDA {_major(driver)}"
        return Finding(part=part, is_ok=False, found=found, remedy=remedy, can_generate=True)
    return Finding(part=part, is_ok=True, found=found, can_generate=True)


def _tensorrt() -> Finding:
    from codegen_edge.runtimes.devices.cuda import list_gpus
    from codegen_edge.runtimes.tensorrt_library import LIBRARIES, load_tensorrt

    part, found, remedy = "runtime tensorrt", [], ""
    for name in LIBRARIES:
        try:
            found.append(f"{name} {load_tensorrt(name).version}")
        except RuntimeUnavailableError as exc:
            remedy = remedy or str(exc)
    if not found:
        return Finding(part=part, is_ok=False, found="neither library", remedy=remedy, can_generate=True)
    try:
        gpus = list_gpus()
    except RuntimeUnavailableError as exc:
        reported = f"{', '.join(found)}; builds engines for other machines" if "tensorrt-rtx" in found[-1] else found[0]
        return Finding(part=part, is_ok=False, found=reported, remedy=str(exc), can_generate=True)
    try:
        for gpu in gpus:
            load_tensorrt().require_support(gpu.name, gpu.compute_capability)
    except RuntimeUnavailableError as exc:
        return Finding(part=part, is_ok=False, found=", ".join(found), remedy=str(exc), can_generate=True)
    return Finding(part=part, is_ok=True, found=", ".join(found), can_generate=True)


def _major(version: str) -> int:
    match = re.match(r"\d+", version)
    return int(match[0]) if match else 0
