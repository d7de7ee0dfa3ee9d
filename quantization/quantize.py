"""Bundle in, smaller bundle out: weights are read, quantized and written one at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codegen_edge import contract
from codegen_edge.bundle import Bundle, FileRecord, Manifest, open_bundle, records_of
from codegen_edge.dependencies import package_versions
from codegen_edge.errors import BundleError, InvalidInputError
from codegen_edge.graph_io import Progress, all_groups, write_graph, write_weights
from codegen_edge.quantization.blockwise import Grid
from codegen_edge.quantization.bundle_io import load_graph
from codegen_edge.quantization.calibration import Calibration
from codegen_edge.quantization.kv_cache import folded, quantize_cache
from codegen_edge.quantization.methods import CALIBRATED_METHODS, find_method
from codegen_edge.quantization.report import REPORT_FILE, QuantizationReport, TensorReport
from codegen_edge.quantization.schemes import MATRIX_FORMS, SchemeOptions, find_scheme
from codegen_edge.storage import MANIFEST_FILE, staged_folder, storage_errors

_TOOLS = ("codegen-edge", "onnx-ir", "numpy", "onnxruntime")
DEFAULT_METHOD = "gptq"

Measure = Callable[[Bundle], dict[str, Any]]
"""Compares an unpublished quantized bundle with the one that it was made of; gives the report's `damage`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeOptions:
    """How to quantize.

    Attributes:
        scheme: "int8", "int4", "int8-dynamic" or "fp16".
        block_size: weights of a row that share a scale; None takes the scheme's own.
        is_symmetric: False stores a zero point a block; None takes the scheme's own.
        method: how int4 codes are chosen: "round", "search" or "gptq".
        kept_at_8_bits: names of matrices that int4 keeps at 8 bits; None keeps the LM head.
        kv_cache: "fp32", or "int8" for a cache of a quarter of the size.
        overwrite: whether a bundle that is there may be replaced.
    """

    scheme: str
    block_size: int | None = None
    is_symmetric: bool | None = None
    method: str = DEFAULT_METHOD
    kept_at_8_bits: frozenset[str] | None = None
    kv_cache: contract.KVPrecision = "fp32"
    overwrite: bool = False

    def __post_init__(self) -> None:
        find_scheme(self.scheme)
        find_method(self.method)
        if self.kv_cache not in contract.KV_PRECISIONS:
            raise InvalidInputError(
                f"kv_cache must be one of {', '.join(contract.KV_PRECISIONS)}, got {self.kv_cache!r}"
            )
        if self.block_size is not None:
            Grid(bits=8, block_size=self.block_size)
        if self.scheme in ("fp16", "int8-dynamic") and self.block_size is not None:
            raise InvalidInputError(f"{self.scheme} has no blocks; it takes no block_size")

    @property
    def needs_calibration(self) -> bool:
        """Whether text is looked at: by the method, or for the scales of the cache."""
        return self.is_calibrated_method or self.kv_cache == "int8"

    @property
    def is_calibrated_method(self) -> bool:
        """Whether the method looks at text."""
        return self.scheme == "int4" and self.method in CALIBRATED_METHODS

    def scheme_options(self) -> SchemeOptions:
        """For the scheme, without calibration yet."""
        return SchemeOptions(
            block_size=self.block_size,
            is_symmetric=self.is_symmetric,
            method=self.method,
            kept_at_8_bits=self.kept_at_8_bits,
        )


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
    # Calibration runs the graph, and an int8 cache is GroupQueryAttention's.
    if bundle.manifest.target != "ort" and options.needs_calibration:
        raise BundleError(
            f"{bundle.path} is a graph for {bundle.manifest.target}: a calibrated method or an int8 cache needs "
            "target ort; int4 goes with --method search or round"
        )
    with staged_folder(Path(out), overwrite=options.overwrite) as stage:
        model, read = load_graph(bundle)
        tensors: list[TensorReport] = []
        form = MATRIX_FORMS[bundle.manifest.target]
        scheme_options = replace(options.scheme_options(), form=form, on_made=tensors.append)
        calibration = Calibration(bundle, calibration_documents) if options.needs_calibration else None
        if calibration is not None and options.is_calibrated_method:
            scheme_options = replace(scheme_options, second_moment=calibration.second_moment)
        rewritten = find_scheme(options.scheme)(model, scheme_options)
        if calibration is not None and options.kv_cache == "int8":
            extremes = calibration.cache_extremes()
            rewritten += quantize_cache(model, extremes)
            read = folded(read, extremes)
        groups = all_groups(model, rewritten)
        with storage_errors(Path(out)):
            (stage / contract.MODEL_FILE).parent.mkdir()
        weights = write_weights(groups, read, stage, on_progress)
        with storage_errors(Path(out)):
            _copy_clients(bundle, stage)
            write_graph(model, stage)
            manifest = _manifest(bundle, stage, options, {contract.WEIGHTS_FILE: weights})
            (stage / MANIFEST_FILE).write_bytes(manifest.to_json())
        report = QuantizationReport(
            scheme=options.scheme, options=_told(options), tensors=tuple(tensors), budget=budget
        )
        if measure is not None:
            report = replace(report, damage=measure(Bundle(stage, manifest)))
        with storage_errors(Path(out)):
            (stage / REPORT_FILE).write_text(json.dumps(report.to_dict(), indent=2) + "\n")
            manifest = _manifest(bundle, stage, options, {contract.WEIGHTS_FILE: weights})
            (stage / MANIFEST_FILE).write_bytes(manifest.to_json())
    return open_bundle(out, check="size"), report


def _copy_clients(bundle: Bundle, stage: Path) -> None:
    """Tokenizer and configs are those of the float bundle; the graph and its data are not."""
    for name in bundle.manifest.files:
        if name not in (contract.MODEL_FILE, contract.WEIGHTS_FILE):
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.path / name, stage / name)


def _manifest(bundle: Bundle, stage: Path, options: QuantizeOptions, known: dict[str, FileRecord]) -> Manifest:
    tools = bundle.manifest.tools | package_versions(*_TOOLS)
    precision: Any = options.scheme  # checked by the scheme's registry
    return replace(
        bundle.manifest,
        precision=precision,
        kv_cache=options.kv_cache,
        tools=tools,
        files=records_of(stage, known),
        parity=None,
    )


def _told(options: QuantizeOptions) -> dict[str, Any]:
    return {
        "kv_cache": options.kv_cache,
        "kept_at_8_bits": None if options.kept_at_8_bits is None else sorted(options.kept_at_8_bits),
        "block_size": options.block_size,
        "is_symmetric": options.is_symmetric,
        "method": options.method if options.scheme == "int4" else "round",
    }
