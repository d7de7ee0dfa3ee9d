"""`codegen-edge export`: checkpoint to bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from codegen_edge import contract
from codegen_edge.errors import ParityError


@click.command()
@click.argument("checkpoint")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--task", type=click.Choice(contract.TASKS), default=contract.TASKS[0], show_default=True)
@click.option("--target", type=click.Choice(contract.TARGETS), default=contract.TARGETS[0], show_default=True)
@click.option("--revision", help="Branch, tag or commit of a hub id.")
@click.option("--offline", is_flag=True, help="Use the hub's local cache only.")
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there, once the new one is whole.")
@click.option("--no-verify", is_flag=True, help="Do not compare with the reference (which must fit in memory).")
def export(
    checkpoint: str,
    out: Path,
    task: contract.Task,
    target: contract.Target,
    revision: str | None,
    offline: bool,
    overwrite: bool,
    no_verify: bool,
) -> None:
    """Export CHECKPOINT, a folder or a hub id, to the bundle OUT and prove it equal.

    codegen-edge export Salesforce/codegen-350M-mono my-bundle
    """
    # Refused before torch is loaded, which takes seconds.
    from codegen_edge.cli.extras import require_export_extra
    from codegen_edge.storage import check_target

    check_target(out, overwrite=overwrite)
    require_export_extra(with_runtime=not no_verify)
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from codegen_edge.cli.console import stderr, stdout
    from codegen_edge.cli.verify import parity_table
    from codegen_edge.evaluation.verify import verdict_of, verify_bundle
    from codegen_edge.exporter import ExportOptions, export_checkpoint, locate_checkpoint

    located = locate_checkpoint(checkpoint, revision=revision, offline=offline)

    def prove(bundle: Any, reference: Any) -> dict[str, Any]:
        progress.stop()
        with stderr.status("comparing every step with the reference"):
            report = verify_bundle(bundle, reference)
        stderr.print(parity_table(report))
        if not report.is_equal:
            raise ParityError(
                f"the export is not equal to the reference ({report.first_failure}); nothing was written. "
                "--no-verify writes it all the same"
            )
        return verdict_of(report, bundle, bundle.manifest.source)

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True) as progress:
        weights = progress.add_task("tracing", total=None)
        bundle = export_checkpoint(
            located,
            out,
            ExportOptions(task=task, target=target, overwrite=overwrite),
            prove=None if no_verify else prove,
            on_progress=lambda done, total: progress.update(
                weights, description="weights", completed=done, total=total
            ),
        )
    for sentence in bundle.manifest.source.mended:
        stderr.print(f"put right in the checkpoint: {sentence}", style="yellow")
    state = "not verified" if no_verify else "equal to the reference"
    stdout.print(f"{out}: {bundle.size_bytes / 1e6:.1f} MB, {bundle.manifest.precision}, {state}")
