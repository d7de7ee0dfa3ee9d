"""Float bundles to small ones: int8, int4, int8-dynamic and fp16, with what that did to every matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from codegen_edge.registry import load_part

if TYPE_CHECKING:
    from codegen_edge.quantization.quantize import QuantizeOptions, quantize_bundle
    from codegen_edge.quantization.report import QuantizationReport, TensorReport

# Imported at first use: the names of schemes are read where onnx-ir is not installed.
_HOMES = {
    "QuantizationReport": "report",
    "QuantizeOptions": "quantize",
    "TensorReport": "report",
    "quantize_bundle": "quantize",
}

__all__ = ["QuantizationReport", "QuantizeOptions", "TensorReport", "quantize_bundle"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return load_part(f"{__name__}.{_HOMES[name]}:{name}")
