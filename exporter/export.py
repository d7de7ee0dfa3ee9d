"""Checkpoint in, bundle out: trace without weights, stream the weights in, put the folder in place in one step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codegen_edge.bundle import Bundle, Manifest, contract, open_bundle
from codegen_edge.bundle.weights import Progress, RewriteGraph, all_groups
from codegen_edge.bundle.writer import write_bundle
from codegen_edge.dependencies import package_versions
from codegen_edge.errors import CheckpointError
from codegen_edge.exporter.checkpoint import Checkpoint, open_checkpoint
from codegen_edge.exporter.clients import client_files
from codegen_edge.exporter.hub import LocatedCheckpoint
from codegen_edge.exporter.stream import weight_reader
from codegen_edge.exporter.targets import build_graph

_TOOLS = ("codegen-edge", "torch", "transformers", "onnx-ir", "onnxscript", "onnx", "tokenizers")

Prove = Callable[[Bundle, Checkpoint], dict[str, Any] | None]
"""Compares a finished but unpublished bundle with its checkpoint; gives the verdict or raises ParityError. None where
a verdict means nothing: a quantized bundle is not meant to be equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What to export.

    Attributes:
        task: "text-generation" (with KV cache) or "feature-extraction" (the last hidden state).
        target: which operators the graph is made of.
        precision: how the weights are stored; any but "fp32" needs `rewrite`.
        overwrite: whether a bundle that is there may be replaced; it stays until the new one is whole.
    """

    task: contract.Task = "text-generation"
    target: contract.Target = "ort"
    precision: str = contract.FULL_PRECISION
    overwrite: bool = False


def export_checkpoint(
    located: LocatedCheckpoint,
    out: str | Path,
    options: ExportOptions | None = None,
    *,
    rewrite: RewriteGraph | None = None,
    prove: Prove | None = None,
    report: Callable[[], dict[str, bytes]] | None = None,
    on_progress: Progress | None = None,
) -> Bundle:
    """Export a checkpoint to a bundle.

    Memory: below 1.2 GB plus three times the largest tensor, whatever the model's size; `prove` needs what the
    reference model needs.

    Args:
        located: from `locate_checkpoint`.
        out: the bundle's folder; it appears whole or not at all.
        options: what to export.
        rewrite: quantizes the graph; its weights are quantized as they are streamed.
        prove: compares the bundle with the checkpoint before it appears; None leaves it unproved.
        report: asked at the end, after `prove`, for files that the bundle is to hold beside its own, by name.
        on_progress: called with the bytes of weights that are written, and the bytes in all.

    Returns:
        The bundle at `out`.

    Raises:
        InvalidInputError: `out` exists and may not be replaced.
        CheckpointError: the checkpoint is unsound; UnsupportedModelError: it is of another model.
        NumericsError: a weight is NaN or infinite.
        ParityError: the bundle is not equal to the checkpoint; nothing was written.
        StorageError: the disk is full.
    """
    options = options or ExportOptions()
    with write_bundle(out, overwrite=options.overwrite) as writer:
        checkpoint = open_checkpoint(located.folder, located.tokenizer)
        _require_head(checkpoint, options.task)
        graph = build_graph(checkpoint, task=options.task, target=options.target)
        groups = all_groups(graph.model, rewrite(graph.model) if rewrite else [])
        writer.write_model(graph.model, groups, weight_reader(checkpoint, graph), on_progress)
        source = checkpoint.source(located.name, located.revision)
        for name, content in client_files(checkpoint, options.task, options.target, source).items():
            writer.add(name, content)
        manifest = Manifest(
            task=options.task,
            target=options.target,
            precision=options.precision,
            model=checkpoint.model,
            source=source,
            tools=package_versions(*_TOOLS),
            files={},
        )
        if prove is not None:
            manifest = replace(manifest, parity=prove(writer.staged(manifest), checkpoint))
        for name, content in (report() if report else {}).items():
            writer.add(name, content)
        writer.staged(manifest)
    return open_bundle(out, check="size")


def _require_head(checkpoint: Checkpoint, task: contract.Task) -> None:
    if task == "text-generation" and "lm_head.bias" not in checkpoint.stored_names:
        raise CheckpointError(
            f"{checkpoint.folder} lacks lm_head: it is a CodeGenModel, which has features but generates no text; "
            "export it for feature-extraction",
            hint="--task feature-extraction",
        )
