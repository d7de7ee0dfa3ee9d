"""`codegen-edge export`: checkpoint to bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from codegen_edge.bundle import contract
from codegen_edge.cli.choices import METHOD, PRECISION
from codegen_edge.cli.output import json_option, print_json
from codegen_edge.cli.paths import PATH


@click.command()
@click.argument("checkpoint")
@click.argument("out", type=PATH)
@click.option("--task", type=click.Choice(contract.TASKS), default=contract.TASKS[0], show_default=True)
@click.option("--target", type=click.Choice(contract.TARGETS), default=contract.TARGETS[0], show_default=True)
@click.option("--precision", type=PRECISION, default=contract.FULL_PRECISION, show_default=True)
@click.option("--method", type=METHOD, help="How int4 codes are chosen: search or round.  [default: search]")
@click.option(
    "--tokenizer",
    type=PATH,
    metavar="FOLDER",
    help="Take the tokenizer from there; a release archive has none.",
)
@click.option("--revision", help="Branch, tag or commit of a hub id.")
@click.option("--offline", is_flag=True, help="Use the hub's local cache only.")
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there, once the new one is whole.")
@click.option("--no-verify", is_flag=True, help="Do not compare with the reference (which must fit in memory).")
@json_option
def export(checkpoint: str, out: Path, no_verify: bool, as_json: bool, **options: Any) -> None:
    """Export CHECKPOINT, a folder, a hub id or a release archive, to the bundle OUT and prove it equal, or in another
    precision than fp32 measure what that costs.

    codegen-edge export Salesforce/codegen-350M-mono my-bundle
    """
    from codegen_edge import workflows
    from codegen_edge.cli.console import stderr, stdout
    from codegen_edge.cli.progress import shown_progress
    from codegen_edge.cli.tables import parity_table, tensor_table
    from codegen_edge.errors import ParityError
    from codegen_edge.evaluation.quality.damage import damage_line

    try:
        with shown_progress("checking") as on_stage:
            exported = workflows.export(checkpoint, out, verify=not no_verify, on_stage=on_stage, **options)
    except ParityError as exc:
        if exc.report is not None:
            stderr.print(parity_table(exc.report))
        raise
    bundle = exported.bundle
    if exported.parity is not None:
        stderr.print(parity_table(exported.parity))
    if exported.quantization is not None:
        stderr.print(tensor_table(exported.quantization.to_dict()))
        state = damage_line(exported.quantization.damage)
    else:
        state = "not verified" if exported.parity is None else "equal to the reference"
    for sentence in bundle.manifest.source.repairs:
        stderr.print(f"repaired in the checkpoint: {sentence}", style="yellow")
    if as_json:
        fields = {"bundle": str(out), "size_bytes": bundle.size_bytes, "precision": bundle.manifest.precision}
        damage = None if exported.quantization is None else exported.quantization.damage
        print_json(fields | {"parity": bundle.manifest.parity, "damage": damage})
        return
    stdout.print(f"{out}: {bundle.size_bytes / 1e6:.1f} MB, {bundle.manifest.precision}, {state}")
