"""What a result was measured on: enough to judge it by, nothing that names the machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from codegen_edge.dependencies import package_versions

_PACKAGES = ("codegen-edge", "onnxruntime", "onnxruntime-genai", "torch", "transformers", "onnx-ir")
_FEATURES = ("avx2", "avx512f", "avx_vnni", "avx512_vnni")


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory and versions, for the head of a result file."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = facts.get("flags", facts.get("Features", "")).split()
    return {
        "processor": facts.get("model name", platform.processor()),
        # What the integer kernels depend on: with VNNI an 8-bit product is one instruction instead of three.
        "features": {name: name in flags for name in _FEATURES},
        "load_average": os.getloadavg()[0],
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": package_versions(*_PACKAGES),
    }
