"""Checkpoint to bundle, compared with its reference before it appears."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codegen_edge.bundle import Bundle, contract
from codegen_edge.bundle.storage import check_target
from codegen_edge.errors import InvalidInputError, ParityError
from codegen_edge.evaluation.parity.compare import ParityReport
from codegen_edge.workflows.packages import require_export_packages
from codegen_edge.workflows.progress import OnStage, silent
from codegen_edge.workflows.quantize_checks import export_method

if TYPE_CHECKING:  # what it imports is asked for by name first
    from codegen_edge.exporter import ExportOptions, LocatedCheckpoint
    from codegen_edge.quantization import QuantizationReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What `export` made.

    Attributes:
        bundle: at its place.
        parity: the comparison with the reference; None where it was not asked for, or the precision is not "fp32".
        quantization: what was done to every matrix and to the whole model; None for "fp32".
    """

    bundle: Bundle
    parity: ParityReport | None = None
    quantization: QuantizationReport | None = None

    @property
    def is_equal(self) -> bool:
        """Whether it was compared with the reference and is equal to it; an export that is not raises ParityError."""
        return self.parity is not None and self.parity.is_equal


def export(
    checkpoint: str | Path,
    out: str | Path,
    *,
    task: contract.Task = "text-generation",
    target: contract.Target = "ort",
    precision: str = contract.FULL_PRECISION,
    method: str | None = None,
    tokenizer: str | Path | None = None,
    revision: str | None = None,
    offline: bool = False,
    overwrite: bool = False,
    verify: bool = True,
    on_stage: OnStage = silent,
) -> Exported:
    """Export a CodeGen checkpoint to ONNX and prove the result equal to it.

    Memory: below 1.2 GB plus three times the largest tensor; comparing needs what the reference model in float32 needs.

    Args:
        checkpoint: a folder with config.json, weights and tokenizer files; a hub id such as
            "Salesforce/codegen-350M-mono"; the name of the checkpoint that ships, "codegen-5M-mono"; or a release
            archive like "codegen-350M-mono.tar.gz" (.tar, .tar.gz, .tgz), which is unpacked beside `out` meanwhile.
        out: the bundle's folder; it appears whole or not at all.
        task: "text-generation" (with KV cache) or "feature-extraction" (the last hidden state).
        target: "ort" for ONNX Runtime, "tensorrt" for engines.
        precision: "fp32", or the name of a quantization scheme, applied while the weights are streamed.
        method: how int4 codes are chosen: "search" (None takes it) or "round", which is faster and less exact.
        tokenizer: a folder whose tokenizer is taken instead of the checkpoint's own; a release archive has none.
        revision: branch, tag or commit of a hub id; None takes main.
        offline: use the hub's local cache only.
        overwrite: whether a bundle that is there may be replaced; it stays until the new one is whole.
        verify: compare with the reference, which must fit in memory: every logit for "fp32", distributions over
            held-out programs otherwise.
        on_stage: called with the progress.

    Returns:
        The bundle, and what the comparison found.

    Raises:
        InvalidInputError: `out` exists and may not be replaced; an argument is wrong.
        CheckpointError: the checkpoint is unsound, of another model, or cannot be fetched.
        NumericsError: a weight is NaN or infinite.
        ParityError: the export is not equal to the checkpoint; nothing was written. It has the report.
        RuntimeUnavailableError: a package of the export extra is missing or of a version that does not work.
        StorageError: the disk is full.
    """
    check_target(Path(out), overwrite=overwrite)
    require_export_packages(with_runtime=verify)
    chosen_method = export_method(precision, method)
    from codegen_edge.exporter import ExportOptions

    options = ExportOptions(task=task, target=target, precision=precision, overwrite=overwrite)
    own_tokenizer = None if tokenizer is None else Path(tokenizer)
    on_stage("locating the checkpoint", 0, None)
    with _located(checkpoint, out, revision, own_tokenizer, offline, overwrite, on_stage) as located:
        return _export(located, out, options, method=chosen_method, verify=verify, on_stage=on_stage)


@contextmanager
def _located(
    checkpoint: str | Path,
    out: str | Path,
    revision: str | None,
    tokenizer: Path | None,
    offline: bool,
    overwrite: bool,
    on_stage: OnStage,
) -> Iterator[LocatedCheckpoint]:
    """The checkpoint's folder; that of an archive is there for as long as the block runs."""
    from codegen_edge.exporter import locate_checkpoint
    from codegen_edge.exporter.archive import is_archive, unpacked_archive
    from codegen_edge.exporter.tokenizer_files import load_tokenizer_files

    if tokenizer is not None:
        load_tokenizer_files(tokenizer)  # a fault of it shows before an archive of gigabytes is read
    if not is_archive(checkpoint):
        yield replace(locate_checkpoint(str(checkpoint), revision=revision, offline=offline), tokenizer=tokenizer)
        return
    if revision is not None:
        raise InvalidInputError(f"{checkpoint} is an archive; a revision is for hub ids")

    def on_read(done: int, total: int) -> None:
        on_stage("unpacking", done, total)

    with unpacked_archive(Path(checkpoint), Path(out), overwrite=overwrite, on_progress=on_read) as located:
        yield replace(located, tokenizer=tokenizer)


def _export(
    located: LocatedCheckpoint,
    out: str | Path,
    options: ExportOptions,
    *,
    method: str,
    verify: bool,
    on_stage: OnStage,
) -> Exported:
    from codegen_edge.exporter import Checkpoint, export_checkpoint

    on_stage("tracing", 0, None)

    def on_weights(done: int, total: int) -> None:
        on_stage("weights", done, total)

    if options.precision != contract.FULL_PRECISION:
        from codegen_edge.workflows.export_quantized import DEFAULT_MEASURE_TOKENS, export_quantized

        measure_tokens = DEFAULT_MEASURE_TOKENS if verify else 0
        bundle, report = export_quantized(
            located, out, options, method=method, measure_tokens=measure_tokens, on_progress=on_weights
        )
        return Exported(bundle=bundle, quantization=report)
    parity: ParityReport | None = None

    def prove(bundle: Bundle, reference: Checkpoint) -> dict[str, Any]:
        from codegen_edge.evaluation.parity.verify import verdict_of, verify_bundle

        nonlocal parity
        on_stage("comparing every step with the reference", 0, None)
        parity = verify_bundle(bundle, reference)
        if not parity.is_equal:
            raise ParityError(
                f"the export is not equal to the reference ({parity.first_failure}); nothing was written",
                hint="--no-verify writes it all the same",
                report=parity,
            )
        return verdict_of(parity, bundle, bundle.manifest.source)

    bundle = export_checkpoint(located, out, options, prove=prove if verify else None, on_progress=on_weights)
    return Exported(bundle=bundle, parity=parity)
