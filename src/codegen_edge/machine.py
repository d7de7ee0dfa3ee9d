"""What this machine computes with, for results and manifests."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

# What the kernels depend on: with VNNI an 8-bit product is one instruction instead of three; AMX multiplies tiles.
_FEATURES = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")


@cache
def processor_name() -> str:
    """The processor's name, as far as the system gives it."""
    return _facts().get("model name") or platform.processor() or platform.machine()


@cache
def processor_features() -> dict[str, bool]:
    """By instruction set that kernels use: whether the processor has it."""
    facts = _facts()
    flags = facts.get("flags", facts.get("Features", "")).split()
    return {name: name in flags for name in _FEATURES}


def has_vnni() -> bool:
    """Whether products of unsigned and signed 8-bit integers are summed in 32 bits by one instruction.

    Without it, onnxruntime's kernel for x86 sums pairs of them in 16 bits, which saturate. A processor whose features
    are not known (systems other than Linux) counts as one without.
    """
    features = processor_features()
    return features["avx_vnni"] or features["avx512_vnni"]


def _facts() -> dict[str, str]:
    """The last processor of /proc/cpuinfo; empty where there is no such file."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
