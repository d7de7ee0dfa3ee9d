"""Export and quantization in one streaming pass, with the damage measured against the reference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from codegen_edge.bundle import Bundle
from codegen_edge.bundle.weights import Progress
from codegen_edge.checkpoints.corpora import load_corpus
from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.quality.damage import measure_damage
from codegen_edge.exporter import Checkpoint, ExportOptions, export_checkpoint, load_reference_model
from codegen_edge.exporter.hub import LocatedCheckpoint
from codegen_edge.quantization import QuantizationReport, TensorReport
from codegen_edge.quantization.plan import Making, PlanOptions
from codegen_edge.quantization.report import REPORT_FILE
from codegen_edge.quantization.schemes import SCHEMES, rewrite_graph
from codegen_edge.runtimes import open_runtime
from codegen_edge.runtimes.backends.reference import ReferenceRuntime
from codegen_edge.runtimes.registry import PROVING_RUNTIMES
from codegen_edge.tokenizer import Tokenizer

DEFAULT_MEASURE_TOKENS = 4096


def export_quantized(
    located: LocatedCheckpoint,
    out: str | Path,
    options: ExportOptions,
    *,
    method: str = "search",
    measure_tokens: int = DEFAULT_MEASURE_TOKENS,
    on_progress: Progress | None = None,
) -> tuple[Bundle, QuantizationReport]:
    """Export a checkpoint in another precision than float32; no full-precision copy is made, on disk or in memory.

    Memory: as of an export. Measuring needs what the reference model needs.

    Args:
        located: from `locate_checkpoint`.
        out: the bundle's folder; it appears whole or not at all.
        options: its precision is "fp16", "int8", "int8-dynamic" or "int4".
        method: how int4 codes are chosen, of `quantize_checks.EXPORT_METHODS`.
        measure_tokens: held-out tokens to compare with the reference on; 0 does not compare.
        on_progress: called with the bytes of weights that are written, and the bytes in all.

    Raises:
        InvalidInputError: precision "fp32", or a feature-extraction graph, which is not quantized.
        CheckpointError, NumericsError, StorageError: as `export_checkpoint`.
    """
    if options.task != "text-generation":
        raise InvalidInputError(f"a graph for {options.task} is exported in fp32 only")
    SCHEMES.find(options.precision)
    tensors: list[TensorReport] = []
    plan_options = PlanOptions(method=method, target=options.target)
    report = QuantizationReport(scheme=options.precision, options={"method": method}, tensors=())

    def measure(bundle: Bundle, checkpoint: Checkpoint) -> None:
        nonlocal report
        candidate = open_runtime(PROVING_RUNTIMES[bundle.manifest.target], bundle)
        reference = ReferenceRuntime(load_reference_model(checkpoint), checkpoint.model)
        texts = [file.text for file in load_corpus("held-out")]
        tokenizer = Tokenizer(bundle.tokenizer_path)
        try:
            damage = measure_damage(candidate, reference, tokenizer, texts, max_tokens=measure_tokens)
        finally:
            candidate.close()
            reference.close()
        report = replace(report, damage=damage.to_dict())

    def files() -> dict[str, bytes]:
        nonlocal report
        report = replace(report, tensors=tuple(tensors))
        return {REPORT_FILE: report.to_json()}

    bundle = export_checkpoint(
        located,
        out,
        options,
        rewrite=lambda model: rewrite_graph(model, options.precision, plan_options, Making(on_made=tensors.append)),
        prove=measure if measure_tokens else None,
        report=files,
        on_progress=on_progress,
    )
    return bundle, report
