"""`codegen-edge build`: from a bundle that any machine runs to one that was built for a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--runtime",
    type=click.Choice(["tensorrt", "cuda"]),
    required=True,
    help="tensorrt: engines, of a bundle of target tensorrt. cuda: a graph in half precision, of one of target ort.",
)
@click.option(
    "--compute",
    type=click.Choice(["fp16", "bf16", "fp32"]),
    default="fp16",
    show_default=True,
    help="What it computes in.",
)
@click.option("--capacity", type=int, help="tensorrt: tokens that a row may hold.  [default: the model's context]")
@click.option("--chunk", type=int, help="tensorrt: tokens of a prefill step.  [default: 64]")
@click.option("--batch", type=int, help="tensorrt: rows of a step.  [default: 1]")
@click.option(
    "--compute-capability",
    "compute_capabilities",
    multiple=True,
    metavar="X.Y",
    help="tensorrt-rtx: GPUs to build for, on any machine; several times.  [default: the GPU of this machine]",
)
@click.option(
    "--library", type=click.Choice(["tensorrt", "tensorrt-rtx"]), help="Which one.  [default: whichever is installed]"
)
@click.option("--overwrite", is_flag=True, help="Replace OUT where it is another bundle.")
def build(
    bundle: Path,
    out: Path,
    runtime: str,
    compute: Any,
    capacity: int | None,
    chunk: int | None,
    batch: int | None,
    compute_capabilities: tuple[str, ...],
    library: str | None,
    overwrite: bool,
) -> None:
    """Build BUNDLE for a GPU and write what its runtime needs to OUT.

    Engines that are there and fit are left alone; stale ones are built again with --overwrite.

    codegen-edge build my-static-bundle my-engines --runtime tensorrt --compute-capability 8.9
    """
    from codegen_edge.bundle import open_bundle
    from codegen_edge.cli.console import stderr, stdout
    from codegen_edge.dependencies import install_command
    from codegen_edge.errors import InvalidInputError, RuntimeUnavailableError

    of_tensorrt = {
        "capacity": capacity,
        "chunk": chunk,
        "batch": batch,
        "library": library,
        "compute-capability": compute_capabilities or None,
    }
    given = [name for name, value in of_tensorrt.items() if value is not None]
    if runtime == "cuda" and given:
        raise InvalidInputError(f"--{given[0]} is of --runtime tensorrt; cuda takes any batch and length")
    if runtime == "cuda" and compute == "fp32":
        raise InvalidInputError("the cuda runtime computes in fp16 or bf16: its attention has no other kernel")
    try:
        from codegen_edge.runtimes.builders import EngineOptions, build_engines, build_half, is_current
    except ImportError as exc:
        raise RuntimeUnavailableError(f"building needs onnx-ir ({exc}): {install_command(runtime)}") from exc
    if runtime == "cuda":
        with stderr.status(f"writing the graph in {compute}"):
            made = build_half(open_bundle(bundle), out, compute=compute, overwrite=overwrite)
        stdout.print(f"wrote {made.path}: {made.size_bytes / 1e6:.1f} MB, computing in {compute}")
        return

    from codegen_edge.runtimes.builders.engine_builder import EngineBuilder
    from codegen_edge.runtimes.tensorrt_library import load_tensorrt

    sizes = {"capacity": capacity, "chunk": chunk, "batch_size": batch}
    options = EngineOptions(
        compute=compute,
        **{name: value for name, value in sizes.items() if value is not None},
    )
    opened = open_bundle(bundle)
    builder = EngineBuilder(load_tensorrt(library), compute_capabilities)
    if out.exists() and is_current(out, opened, builder, options):
        stdout.print(f"{out} is built of {bundle} already, for the same: nothing to do")
        return
    with stderr.status("building") as status:
        made = build_engines(
            opened,
            out,
            builder,
            options,
            overwrite=overwrite,
            on_phase=lambda phase: status.update(f"building the {phase} engine"),
        )
    engines = made.manifest.engines
    assert engines is not None
    stdout.print(
        f"wrote {made.path}: {made.size_bytes / 1e6:.1f} MB, {engines.library} {engines.version}, {compute}, for "
        f"{engines.gpu or ', '.join(engines.compute_capabilities)}; {engines.batch_size} rows of {engines.capacity} "
        f"tokens, chunks of {engines.chunk}"
    )
