"""What a run was measured on, and what else the machine did meanwhile."""

from __future__ import annotations

import os
import platform
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codegen_edge.dependencies import package_versions
from codegen_edge.machine import processor_features, processor_name

_PRESSURE = Path("/proc/pressure/cpu")
_CACHE_SIZES = Path("/sys/devices/system/cpu/cpu0/cache")
_PACKAGES = ("codegen-edge", "onnxruntime", "numpy", "onnx-ir", "tokenizers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How busy the machine was while a run lasted.

    Attributes:
        average_before: load average of the minute before the run; None where the system has none.
        average_after: of its last minute; the run itself is in it.
        waiting: share of the run in which some program waited for a processor; None where the system does not say.
    """

    average_before: float | None
    average_after: float | None
    waiting: float | None


class LoadWatch:
    """Looks at the machine when it is made, and again at `stop`."""

    def __init__(self) -> None:
        self._average = load_average()
        self._waited_us = waited_us()
        self._started_at = time.perf_counter()

    def stop(self) -> Load:
        """What became of it since."""
        now_us = waited_us()
        waiting = None
        if now_us is not None and self._waited_us is not None:
            waiting = min(1.0, (now_us - self._waited_us) / 1e6 / (time.perf_counter() - self._started_at))
        return Load(average_before=self._average, average_after=load_average(), waiting=waiting)


def load_average() -> float | None:
    """Of the last minute; None where the system has none."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def waited_us() -> int | None:
    """Microseconds since the start of the system in which some program waited for a processor (Linux)."""
    try:
        match = re.search(r"^some .*total=(\d+)$", _PRESSURE.read_text(), re.MULTILINE)
    except OSError:  # not there, or switched off
        return None
    return None if match is None else int(match[1])


def largest_cache_bytes() -> int | None:
    """Size of the processor's largest cache; None where the system does not say."""
    sizes = []
    for file in _CACHE_SIZES.glob("index*/size"):
        match = re.fullmatch(r"(\d+)([KMG])", file.read_text().strip())
        if match is not None:
            sizes.append(int(match[1]) * 1024 ** (" KMG".index(match[2])))
    return max(sizes, default=None)


def memory_bytes() -> int | None:
    """Memory of the machine; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def describe_machine(threads: int) -> dict[str, Any]:
    """Processor, memory and versions, and `threads` of the runtime; nothing that names the machine or its user."""
    return {
        "processor": processor_name(),
        "features": processor_features(),
        "cores": os.cpu_count(),
        "threads": threads,
        "largest_cache_bytes": largest_cache_bytes(),
        "memory_bytes": memory_bytes(),
        "system": platform.system(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "packages": package_versions(*_PACKAGES),
    }
