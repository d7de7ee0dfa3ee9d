"""Bundle in, smaller bundle out: weights are read, quantized and written one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codegen_edge.bundle import Bundle, contract, open_bundle
from codegen_edge.bundle.weights import Progress, all_groups, load_graph
from codegen_edge.bundle.writer import write_bundle
from codegen_edge.dependencies import package_versions
from codegen_edge.errors import BundleError, InvalidInputError
from codegen_edge.quantization.blockwise import Grid
from codegen_edge.quantization.calibration import Calibration
from codegen_edge.quantization.kv_cache import folded, quantize_cache
from codegen_edge.quantization.methods import CALIBRATED_METHODS, METHODS
from codegen_edge.quantization.plan import Making, PlanOptions
from codegen_edge.quantization.report import REPORT_FILE, QuantizationReport, TensorReport
from codegen_edge.quantization.schemes import SCHEMES, rewrite_graph

_TOOLS = ("codegen-edge", "onnx-ir", "numpy", "onnxruntime")
DEFAULT_METHOD = "gptq"

Measure = Callable[[Bundle], dict[str, Any]]
"""Compares an unpublished quantized bundle with the one that it was made of; gives the report's `damage`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeOptions:
    """How to quantize.

    Attributes:
        scheme: a name in SCHEMES.
        block_size: weights of a row that share a scale; None takes the scheme's own.
        is_symmetric: False stores a zero point for each block; None takes the scheme's own.
        method: how int4 codes are chosen: "round", "search" or "gptq".
        kept_at_8_bits: names of matrices that int4 keeps at 8 bits; None keeps the LM head.
        kv_cache: "float", or "int8" for a cache of a quarter of the size.
        processor: "any", or "vnni" for a graph that is faster with VNNI and runs on no other processor; goes with
            int8-dynamic.
        overwrite: whether a bundle that is there may be replaced.
    """

    scheme: str
    block_size: int | None = None
    is_symmetric: bool | None = None
    method: str = DEFAULT_METHOD
    kept_at_8_bits: frozenset[str] | None = None
    kv_cache: contract.KVPrecision = "float"
    processor: contract.Processor = "any"
    overwrite: bool = False

    def __post_init__(self) -> None:
        scheme = SCHEMES.find(self.scheme)
        METHODS.find(self.method)
        if self.kv_cache not in contract.KV_PRECISIONS:
            raise InvalidInputError(
                f"kv_cache must be one of {', '.join(contract.KV_PRECISIONS)}, got {self.kv_cache!r}"
            )
        if self.processor not in contract.PROCESSORS:
            raise InvalidInputError(
                f"processor must be one of {', '.join(contract.PROCESSORS)}, got {self.processor!r}"
            )
        if self.processor != "any" and not scheme.depends_on_processor:
            raise InvalidInputError(f"{self.scheme} is the same for every processor; it takes no processor")
        if self.block_size is not None:
            Grid(bits=8, block_size=self.block_size)
        if not scheme.has_blocks and self.block_size is not None:
            raise InvalidInputError(f"{self.scheme} has no blocks; it takes no block_size")

    @property
    def needs_calibration(self) -> bool:
        """Whether text is read: by the method, or for the scales of the cache."""
        return self.is_calibrated_method or self.kv_cache == "int8"

    @property
    def is_calibrated_method(self) -> bool:
        """Whether the method reads text."""
        return SCHEMES.find(self.scheme).has_methods and self.method in CALIBRATED_METHODS

    def plan_options(self, target: contract.Target) -> PlanOptions:
        """For the scheme, on a graph of this target."""
        return PlanOptions(
            target=target,
            block_size=self.block_size,
            is_symmetric=self.is_symmetric,
            method=self.method,
            kept_at_8_bits=self.kept_at_8_bits,
            processor=self.processor,
        )

    def to_report(self) -> dict[str, Any]:
        """For the report."""
        return {
            "kv_cache": self.kv_cache,
            "kept_at_8_bits": None if self.kept_at_8_bits is None else sorted(self.kept_at_8_bits),
            "block_size": self.block_size,
            "is_symmetric": self.is_symmetric,
            "processor": self.processor,
            "method": self.method if SCHEMES.find(self.scheme).has_methods else "round",
        }


def quantize_bundle(
    bundle: Bundle,
    out: str | Path,
    options: QuantizeOptions,
    *,
    calibration_documents: Sequence[NDArray[np.int64]] = (),
    measure: Measure | None = None,
    budget: dict[str, Any] | None = None,
    on_progress: Progress | None = None,
) -> tuple[Bundle, QuantizationReport]:
    """Quantize a float32 bundle.

    Memory: as of an export (1.2 GB plus three times the largest tensor). A calibrated method also needs what running
    the float model needs, 2 GB of second moments, and a few float64 copies of the largest one.

    Args:
        bundle: fp32.
        out: the new bundle's folder; it appears whole or not at all.
        options: how.
        calibration_documents: token ids of texts for a calibrated method, `<|endoftext|>` first.
        measure: compares the new bundle with `bundle` before it appears; it may raise to refuse it.
        budget: for the report: how `kept_at_8_bits` came to be.
        on_progress: called with the bytes of weights that are written, and the bytes in all.

    Returns:
        The bundle at `out`, and what was done.

    Raises:
        BundleError: `bundle` is quantized already.
        InvalidInputError: a block size does not fit, `out` may not be replaced, no text to calibrate with.
        NumericsError: a weight is NaN or infinite.
        StorageError: the disk is full.
    """
    require_float(bundle)
    # Calibration runs the graph, and an int8 cache is GroupQueryAttention's.
    if bundle.manifest.target != "ort" and options.needs_calibration:
        raise BundleError(
            f"{bundle.path} is a graph for {bundle.manifest.target}: a calibrated method or an int8 cache needs "
            'target ort; int4 takes method "search" or "round" there'
        )
    with write_bundle(out, overwrite=options.overwrite) as writer:
        model, read = load_graph(bundle)
        tensors: list[TensorReport] = []
        making = Making(on_made=tensors.append)
        calibration = Calibration(bundle, calibration_documents) if options.needs_calibration else None
        if calibration is not None and options.is_calibrated_method:
            making = replace(making, second_moment=calibration.second_moment)
        rewritten = rewrite_graph(model, options.scheme, options.plan_options(bundle.manifest.target), making)
        if calibration is not None and options.kv_cache == "int8":
            extremes = calibration.cache_extremes()
            rewritten += quantize_cache(model, extremes)
            read = folded(read, extremes)
        writer.write_model(model, all_groups(model, rewritten), read, on_progress)
        writer.copy_from(bundle)
        bundle.check_unchanged()
        manifest = replace(
            bundle.manifest,
            precision=options.scheme,
            kv_cache=options.kv_cache,
            processor=options.processor,
            tools=bundle.manifest.tools | package_versions(*_TOOLS),
            parity=None,
        )
        report = QuantizationReport(
            scheme=options.scheme,
            options=options.to_report(),
            tensors=tuple(tensors),
            budget=budget,
            calibration_tokens=None if calibration is None else calibration.moment_tokens,
        )
        staged = writer.staged(manifest)
        if measure is not None:
            report = replace(report, damage=measure(staged))
        writer.add(REPORT_FILE, report.to_json())
    return open_bundle(out, check="size"), report


def require_float(bundle: Bundle) -> None:
    """Raise BundleError where a bundle is quantized already."""
    if bundle.manifest.precision != contract.FULL_PRECISION:
        raise BundleError(
            f"{bundle.path} is {bundle.manifest.precision} already; quantize the fp32 bundle that it was made of"
        )
