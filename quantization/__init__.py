"""Float bundles to small ones: int8, int4, int8-dynamic and fp16, with what that did to every matrix."""

from codegen_edge.quantization.quantize import QuantizeOptions, quantize_bundle
from codegen_edge.quantization.report import QuantizationReport, TensorReport

__all__ = ["QuantizationReport", "QuantizeOptions", "TensorReport", "quantize_bundle"]
