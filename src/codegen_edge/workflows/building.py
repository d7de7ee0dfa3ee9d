"""From a bundle that any machine runs to one that is built for a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codegen_edge.bundle import Bundle, contract, open_bundle
from codegen_edge.dependencies import install_command
from codegen_edge.errors import InvalidInputError, RuntimeUnavailableError
from codegen_edge.runtimes.registry import BUILT_RUNTIMES
from codegen_edge.workflows.progress import OnStage, silent


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What `build` made.

    Attributes:
        bundle: at its place.
        is_new: False where engines that fit were there already.
    """

    bundle: Bundle
    is_new: bool = True


def build(
    bundle: str | Path | Bundle,
    out: str | Path,
    *,
    runtime: str,
    compute: contract.Compute = "fp16",
    capacity: int | None = None,
    chunk: int | None = None,
    batch_size: int | None = None,
    compute_capabilities: tuple[str, ...] = (),
    library: str | None = None,
    overwrite: bool = False,
    on_stage: OnStage = silent,
) -> Built:
    """Build what a GPU runtime runs.

    Args:
        bundle: its folder, or opened; of target "ort" for runtime "cuda", of target "tensorrt" for "tensorrt".
        out: the new bundle's folder; it appears whole or not at all.
        runtime: "cuda" (a graph in half precision) or "tensorrt" (engines).
        compute: "fp16" or "bf16"; "fp32" where TensorRT has kernels for its attention.
        capacity: of engines: tokens that a row may hold; None takes the model's context.
        chunk: of engines: tokens of a prefill step; None takes 64.
        batch_size: of engines: rows of a step; None takes 1.
        compute_capabilities: of engines by TensorRT-RTX: GPUs to build for, for example ("8.6", "8.9"), on any machine;
            empty builds for the GPU of this machine.
        library: of engines: "tensorrt" or "tensorrt-rtx"; None takes whichever is installed.
        overwrite: whether a bundle that is there may be replaced.
        on_stage: called with the progress.

    Returns:
        The bundle. Engines that are there and fit are left alone.

    Raises:
        InvalidInputError: an argument is of the other runtime, or out of range; `out` may not be replaced.
        BundleError: the bundle cannot be built for this runtime.
        BackendError: TensorRT failed.
        RuntimeUnavailableError: a library is missing, or does not run on this GPU.
        StorageError: the disk is full.
    """
    if runtime not in BUILT_RUNTIMES:
        raise InvalidInputError(f"nothing is built for runtime {runtime!r}; for {' and '.join(BUILT_RUNTIMES)} it is")
    of_engines = {
        "capacity": capacity,
        "chunk": chunk,
        "batch_size": batch_size,
        "library": library,
        "compute_capabilities": compute_capabilities or None,
    }
    given = {name: value for name, value in of_engines.items() if value is not None}
    if runtime == "cuda" and given:
        raise InvalidInputError(f"{next(iter(given))} is of runtime tensorrt; cuda takes any batch and length")
    if runtime == "cuda" and compute == "fp32":
        raise InvalidInputError("the cuda runtime computes in fp16 or bf16: its attention has no other kernel")
    try:
        from codegen_edge.runtimes.builders import build_half
    except ImportError as exc:
        raise RuntimeUnavailableError(f"building needs onnx-ir ({exc}): {install_command(runtime)}") from exc
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    if runtime == "tensorrt":
        return _build_engines(opened, Path(out), compute, given, overwrite=overwrite, on_stage=on_stage)

    def on_weights(done: int, total: int) -> None:
        on_stage(f"writing the graph in {compute}", done, total)

    return Built(bundle=build_half(opened, out, compute=compute, overwrite=overwrite, on_progress=on_weights))


def _build_engines(
    bundle: Bundle,
    out: Path,
    compute: contract.Compute,
    given: dict[str, Any],
    *,
    overwrite: bool,
    on_stage: OnStage,
) -> Built:
    from codegen_edge.runtimes.builders import EngineOptions, build_engines, is_current
    from codegen_edge.runtimes.builders.engine_builder import EngineBuilder
    from codegen_edge.runtimes.tensorrt_library import load_tensorrt

    library, capabilities = given.pop("library", None), given.pop("compute_capabilities", ())
    options = EngineOptions(compute=compute, **given)
    builder = EngineBuilder(load_tensorrt(library), capabilities)
    if out.exists() and is_current(out, bundle, builder, options):
        return Built(bundle=open_bundle(out), is_new=False)
    made = build_engines(
        bundle,
        out,
        builder,
        options,
        overwrite=overwrite,
        on_phase=lambda phase: on_stage(f"building the {phase} engine", 0, None),
    )
    return Built(bundle=made)
