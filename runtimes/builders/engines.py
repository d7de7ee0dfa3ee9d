"""The bundle of the `tensorrt` runtime: an engine of prefill chunks and one of decode steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Protocol

from codegen_edge.bundle import ENGINE_FILES, Bundle, Engines, Phase, contract, open_bundle
from codegen_edge.bundle.graph_file import graph_of_an_export
from codegen_edge.bundle.leftovers import working_folder
from codegen_edge.bundle.model_config import ModelConfig
from codegen_edge.bundle.storage import resolved, storage_errors
from codegen_edge.bundle.weights import load_graph, write_graph, write_weights
from codegen_edge.bundle.writer import write_bundle
from codegen_edge.errors import BundleError, InvalidInputError
from codegen_edge.runtimes.builders.clients import copy_clients, tool_versions
from codegen_edge.runtimes.builders.compute_dtype import set_compute_dtype
from codegen_edge.runtimes.builders.engine_builder import Tensor, fix_axes
from codegen_edge.runtimes.tensorrt_library import TensorRT

OnPhase = Callable[[Phase], None]
"""Called before the engine of a phase is built."""


class BuildsEngines(Protocol):
    """What `build_engines` needs of `engines.EngineBuilder`."""

    library: TensorRT
    compute_capabilities: tuple[str, ...]

    @property
    def gpu(self) -> str | None:
        """Of "current" engines."""

    def build(self, graph: Path, inputs: dict[str, Tensor], outputs: dict[str, Tensor]) -> bytes:
        """The engine of a graph whose axes are fixed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What engines are built for.

    Attributes:
        compute: "fp16" or "bf16"; "fp32" where TensorRT has kernels for its attention (TensorRT-RTX has none).
        capacity: tokens that a row may hold; None takes the model's context.
        chunk: tokens of a prefill step.
        batch_size: rows of a step.
    """

    compute: contract.Compute = "fp16"
    capacity: int | None = None
    chunk: int = 64
    batch_size: int = 1

    def __post_init__(self) -> None:
        if self.compute not in contract.COMPUTES:
            raise InvalidInputError(f"compute must be one of {', '.join(contract.COMPUTES)}, got {self.compute!r}")
        for name in ("chunk", "batch_size"):
            if getattr(self, name) < 1:
                raise InvalidInputError(f"{name} must be at least 1, got {getattr(self, name)}")


def build_engines(
    bundle: Bundle,
    out: str | Path,
    builder: BuildsEngines,
    options: EngineOptions | None = None,
    *,
    overwrite: bool = False,
    on_phase: OnPhase | None = None,
) -> Bundle:
    """Make the bundle that the `tensorrt` runtime runs: an engine of prefill chunks and one of decode steps.

    Memory: what TensorRT needs, a few times the weights. Disk: the weights once more, while it builds.

    Args:
        bundle: text-generation, target tensorrt.
        out: the new bundle's folder; it appears whole or not at all.
        builder: an `EngineBuilder`.
        options: what for.
        overwrite: whether a bundle that is there may be replaced.
        on_phase: called before each engine.

    Raises:
        BundleError: the bundle is of another target, or TensorRT refuses its graph.
        InvalidInputError: a capacity beyond the model's context.
        BackendError: the build failed.
        RuntimeUnavailableError: the library cannot work here.
        StorageError: the disk is full.
    """
    options = options or EngineOptions()
    bundle.require_task("text-generation")
    bundle.require_graph("tensorrt", target="tensorrt", compute=("fp32",))
    engines = _plan(bundle, builder, options)
    with (
        write_bundle(out, overwrite=overwrite) as writer,
        working_folder(resolved(Path(out)).parent, "build") as folder,
    ):
        model, read = load_graph(bundle)
        with storage_errors(folder):
            (folder / contract.MODEL_FILE).parent.mkdir()
        with graph_of_an_export(bundle):
            groups = set_compute_dtype(model, options.compute)
        write_weights(groups, read, folder)
        steps: dict[Phase, int] = {"prefill": engines.chunk, "decode": 1}
        symbolic = [value.shape for value in (*model.graph.inputs, *model.graph.outputs)]
        for phase, num_new in steps.items():
            for value, shape in zip((*model.graph.inputs, *model.graph.outputs), symbolic, strict=True):
                value.shape = shape
            fix_axes(model, batch_size=engines.batch_size, num_new=num_new, buffer_length=engines.buffer_length)
            if on_phase is not None:
                on_phase(phase)
            with storage_errors(folder):
                write_graph(model, folder)
            inputs, outputs = engine_bindings(bundle.manifest.model, engines, options.compute, num_new)
            writer.add(ENGINE_FILES[phase], builder.build(folder / contract.MODEL_FILE, inputs, outputs))
        copy_clients(bundle, writer)
        writer.staged(
            replace(
                bundle.manifest,
                compute=options.compute,
                built_of=bundle.fingerprint,
                engines=engines,
                parity=None,
                tools=tool_versions(bundle) | {builder.library.name: builder.library.version},
            )
        )
    return open_bundle(out, check="size")


def is_current(out: str | Path, bundle: Bundle, builder: BuildsEngines, options: EngineOptions) -> bool:
    """Whether `out` holds sound engines that were built of this bundle, by this library, for the same."""
    try:
        built = open_bundle(out)
    except BundleError:
        return False
    manifest = built.manifest
    return (manifest.engines, manifest.compute, manifest.built_of) == (
        _plan(bundle, builder, options),
        options.compute,
        bundle.fingerprint,
    )


def engine_bindings(
    config: ModelConfig, engines: Engines, compute: contract.Compute, num_new: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What an engine of `num_new` tokens per row takes and gives, by name."""
    rows = engines.batch_size
    buffer: Tensor = ((rows, config.num_heads, engines.buffer_length, config.head_dim), contract.DTYPE_NAMES[compute])
    inputs: dict[str, Tensor] = {
        contract.INPUT_IDS: ((rows, num_new), "int64"),
        contract.PAST_LENGTH: ((rows,), "int64"),
    }
    outputs: dict[str, Tensor] = {contract.LOGITS: ((rows, num_new, config.vocab_size), "float32")}
    for place in product(range(config.num_layers), contract.KV_PARTS):
        inputs[contract.past_name(*place)] = buffer
        outputs[contract.present_name(*place)] = buffer
    return inputs, outputs


def _plan(bundle: Bundle, builder: BuildsEngines, options: EngineOptions) -> Engines:
    context = bundle.manifest.model.context_length
    capacity = context if options.capacity is None else options.capacity
    if not 1 <= capacity <= context:
        raise InvalidInputError(f"capacity must be in 1…{context}, the model's context, got {capacity}")
    return Engines(
        library=builder.library.name,
        version=builder.library.version,
        compute_capabilities=builder.compute_capabilities,
        gpu=builder.gpu,
        batch_size=options.batch_size,
        capacity=capacity,
        chunk=min(options.chunk, capacity),
    )
