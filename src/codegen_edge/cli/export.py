"""`codegen-edge export`: checkpoint to bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codegen_edge.bundle import contract
from codegen_edge.cli.choices import PRECISION
from codegen_edge.errors import ParityError

if TYPE_CHECKING:
    from codegen_edge.bundle import Bundle
    from codegen_edge.exporter import ExportOptions
    from codegen_edge.exporter.hub import LocatedCheckpoint


@click.command()
@click.argument("checkpoint")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--task", type=click.Choice(contract.TASKS), default=contract.TASKS[0], show_default=True)
@click.option("--target", type=click.Choice(contract.TARGETS), default=contract.TARGETS[0], show_default=True)
@click.option(
    "--precision",
    type=PRECISION,
    default="fp32",
    show_default=True,
)
@click.option("--revision", help="Branch, tag or commit of a hub id.")
@click.option("--offline", is_flag=True, help="Use the hub's local cache only.")
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there, once the new one is whole.")
@click.option("--no-verify", is_flag=True, help="Do not compare with the reference (which must fit in memory).")
def export(
    checkpoint: str,
    out: Path,
    task: contract.Task,
    target: contract.Target,
    precision: str,
    revision: str | None,
    offline: bool,
    overwrite: bool,
    no_verify: bool,
) -> None:
    """Export CHECKPOINT, a folder or a hub id, to the bundle OUT and prove it equal, or in another precision than
    fp32 measure what that costs.

    codegen-edge export Salesforce/codegen-350M-mono my-bundle
    """
    # Refused before torch is loaded, which takes seconds.
    from codegen_edge.bundle.storage import check_target
    from codegen_edge.cli.extras import require_export_extra

    check_target(out, overwrite=overwrite)
    require_export_extra(with_runtime=not no_verify)
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from codegen_edge.cli.console import stderr, stdout
    from codegen_edge.exporter import ExportOptions, locate_checkpoint

    located = locate_checkpoint(checkpoint, revision=revision, offline=offline)

    options = ExportOptions(task=task, target=target, precision=precision, overwrite=overwrite)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True) as progress:
        weights = progress.add_task("tracing", total=None)

        def on_progress(done: int, total: int) -> None:
            progress.update(weights, description="weights", completed=done, total=total)

        export = _export_proved if precision == "fp32" else _export_quantized
        bundle, state = export(located, out, options, progress, on_progress, is_compared=not no_verify)
    for sentence in bundle.manifest.source.mended:
        stderr.print(f"put right in the checkpoint: {sentence}", style="yellow")
    stdout.print(f"{out}: {bundle.size_bytes / 1e6:.1f} MB, {bundle.manifest.precision}, {state}")


def _export_proved(
    located: LocatedCheckpoint, out: Path, options: ExportOptions, progress: Any, on_progress: Any, *, is_compared: bool
) -> tuple[Bundle, str]:
    from codegen_edge.cli.console import stderr
    from codegen_edge.cli.verify import parity_table
    from codegen_edge.evaluation.parity.verify import verdict_of, verify_bundle
    from codegen_edge.exporter import export_checkpoint

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

    bundle = export_checkpoint(located, out, options, prove=prove if is_compared else None, on_progress=on_progress)
    return bundle, "equal to the reference" if is_compared else "not verified"


def _export_quantized(
    located: LocatedCheckpoint, out: Path, options: ExportOptions, progress: Any, on_progress: Any, *, is_compared: bool
) -> tuple[Bundle, str]:
    from codegen_edge.cli.console import stderr
    from codegen_edge.cli.quantize import damage_line, tensor_table
    from codegen_edge.workflows.export import DEFAULT_MEASURE_TOKENS, export_quantized

    measure_tokens = DEFAULT_MEASURE_TOKENS if is_compared else 0
    bundle, report = export_quantized(located, out, options, measure_tokens=measure_tokens, on_progress=on_progress)
    progress.stop()
    stderr.print(tensor_table(report.to_dict()))
    return bundle, damage_line(report.damage)
