"""The bundle of the `cuda` runtime: the same graph, computing in half precision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from codegen_edge.bundle import Bundle, contract, open_bundle
from codegen_edge.bundle.graph_file import graph_of_an_export
from codegen_edge.bundle.weights import Progress, load_graph
from codegen_edge.bundle.writer import write_bundle
from codegen_edge.errors import BundleError, InvalidInputError
from codegen_edge.runtimes.builders.clients import copy_clients, tool_versions
from codegen_edge.runtimes.builders.compute_dtype import set_compute_dtype


def build_half(
    bundle: Bundle,
    out: str | Path,
    *,
    compute: contract.Compute = "fp16",
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> Bundle:
    """Make the bundle that the `cuda` runtime runs: the same graph, computing in half precision.

    Memory: of the largest tensor, a few times.

    Args:
        bundle: text-generation, target ort, any precision but int8-dynamic, and a float KV cache.
        out: the new bundle's folder; it appears whole or not at all.
        compute: "fp16" or "bf16".
        overwrite: whether a bundle that is there may be replaced.
        on_progress: called with the bytes of weights that are written, and the bytes in all.

    Raises:
        BundleError: the bundle cannot be run in half precision.
        NumericsError: a value is beyond float16.
        StorageError: the disk is full.
    """
    if compute not in ("fp16", "bf16"):
        raise InvalidInputError(f"the cuda runtime computes in fp16 or bf16, got {compute!r}")
    bundle.require_task("text-generation")
    bundle.require_graph("cuda", target="ort", compute=("fp32",))
    if bundle.manifest.kv_cache != "float":
        raise BundleError(f"{bundle.path} has an {bundle.manifest.kv_cache} KV cache, which only runtime cpu computes")
    with write_bundle(out, overwrite=overwrite) as writer:
        model, read = load_graph(bundle)
        with graph_of_an_export(bundle):
            groups = set_compute_dtype(model, compute)
        writer.write_model(model, groups, read, on_progress)
        copy_clients(bundle, writer)
        writer.staged(
            replace(
                bundle.manifest, compute=compute, built_of=bundle.fingerprint, parity=None, tools=tool_versions(bundle)
            )
        )
    return open_bundle(out, check="size")
