"""`codegen-edge build`: from a bundle that any machine runs to one that is built for a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from codegen_edge.bundle import contract
from codegen_edge.cli.bundles import BUNDLE
from codegen_edge.cli.choices import BUILT_RUNTIME
from codegen_edge.cli.output import json_option, print_json
from codegen_edge.cli.paths import PATH


@click.command()
@click.argument("bundle", type=BUNDLE)
@click.argument("out", type=PATH)
@click.option(
    "--runtime",
    type=BUILT_RUNTIME,
    required=True,
    help="tensorrt: engines, of a bundle of target tensorrt. cuda: a graph in half precision, of one of target ort.",
)
@click.option(
    "--compute", type=click.Choice(contract.COMPUTES), default="fp16", show_default=True, help="What it computes in."
)
@click.option("--capacity", type=int, help="tensorrt: tokens that a row may hold.  [default: the model's context]")
@click.option("--chunk", type=int, help="tensorrt: tokens of a prefill step.  [default: 64]")
@click.option("--batch", "batch_size", type=int, help="tensorrt: rows of a step.  [default: 1]")
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
@json_option
def build(bundle: Path, out: Path, compute: Any, as_json: bool, **options: Any) -> None:
    """Build BUNDLE for a GPU and write what its runtime needs to OUT.

    Engines that are there and fit are left alone; stale ones are built again with --overwrite.

    codegen-edge build my-static-bundle my-engines --runtime tensorrt --compute-capability 8.9
    """
    from codegen_edge import workflows
    from codegen_edge.cli.console import stdout
    from codegen_edge.cli.progress import shown_progress
    from codegen_edge.workflows.quantize_checks import require_other_folder

    require_other_folder(bundle, out)
    with shown_progress("building") as on_stage:
        built = workflows.build(bundle, out, compute=compute, on_stage=on_stage, **options)
    if as_json:
        print_json({"bundle": str(out), "size_bytes": built.bundle.size_bytes, "is_new": built.is_new})
        return
    if not built.is_new:
        stdout.print(f"{out} is built of {bundle} already, for the same: nothing to do")
        return
    made, engines = built.bundle, built.bundle.manifest.engines
    if engines is None:
        stdout.print(f"wrote {made.path}: {made.size_bytes / 1e6:.1f} MB, computing in {compute}")
        return
    stdout.print(
        f"wrote {made.path}: {made.size_bytes / 1e6:.1f} MB, {engines.library} {engines.version}, {compute}, for "
        f"{engines.gpu or ', '.join(engines.compute_capabilities)}; {engines.batch_size} rows of {engines.capacity} "
        f"tokens, chunks of {engines.chunk}"
    )
