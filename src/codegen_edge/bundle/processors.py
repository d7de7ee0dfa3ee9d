"""Which processors a bundle is made for, by the names that users know them by."""

from __future__ import annotations

from codegen_edge.bundle.contract import Processor
from codegen_edge.errors import InvalidInputError
from codegen_edge.machine import has_vnni

# Signed weights were not measured on Arm: a bundle for it is the one that runs anywhere.
_PROCESSORS: dict[str, Processor] = {"any": "any", "avx2": "any", "avx512-vnni": "vnni", "arm64": "any"}
PROCESSOR_NAMES = (*_PROCESSORS, "auto")


def processor_for(name: str) -> Processor:
    """What a bundle for processors of this kind is made for; "auto" is this one.

    Raises:
        InvalidInputError: the name is none of PROCESSOR_NAMES.
    """
    if name == "auto":
        name = "avx512-vnni" if has_vnni() else "any"
    if name not in _PROCESSORS:
        raise InvalidInputError(f"processor must be one of {', '.join(PROCESSOR_NAMES)}, got {name!r}")
    return _PROCESSORS[name]
