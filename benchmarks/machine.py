"""What a result was measured on: enough to judge it by, nothing that names the machine."""

from __future__ import annotations

import os
import platform
from typing import Any

from codegen_edge.dependencies import package_versions
from codegen_edge.machine import processor_features, processor_name

_PACKAGES = ("codegen-edge", "onnxruntime", "onnxruntime-genai", "torch", "transformers", "onnx-ir")


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory and versions, for the head of a result file."""
    return {
        "processor": processor_name(),
        "features": processor_features(),
        "load_average": os.getloadavg()[0],
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": package_versions(*_PACKAGES),
    }
