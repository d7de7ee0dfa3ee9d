"""`codegen-edge verify`: is a bundle equal to its reference?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.table import Table

    from codegen_edge.bundle import Bundle
    from codegen_edge.evaluation.parity.compare import ParityReport


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--reference", required=True, help="The checkpoint: a folder or a hub id. Of what was built: the bundle it was of."
)
@click.option("--revision", help="Branch, tag or commit of a hub id.")
@click.option("--offline", is_flag=True, help="Use the hub's local cache only.")
@click.option("--runtime", help="By which the bundle runs.  [default: cpu; static-cpu for target tensorrt]")
@click.option("--steps", type=int, help="Decode steps after each prompt.  [default: 16]")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write the report to this file.")
def verify(
    bundle: Path,
    reference: str,
    revision: str | None,
    offline: bool,
    runtime: str | None,
    steps: int | None,
    json_file: Path | None,
) -> None:
    """Compare BUNDLE with the checkpoint, logit by logit and step by step.

    The verdict goes into the bundle's bundle.json; exit code 1 when they differ.

    codegen-edge verify my-bundle --reference Salesforce/codegen-350M-mono
    """
    from codegen_edge.bundle import open_bundle
    from codegen_edge.cli.extras import require_export_extra
    from codegen_edge.errors import InvalidInputError

    opened = open_bundle(bundle)
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise InvalidInputError(f"{json_file.absolute().parent} is not a folder; make it first")
    from codegen_edge.cli.console import stderr

    if is_bundle(reference):
        if revision is not None or offline:
            raise InvalidInputError(f"--revision and --offline are of a hub id; {reference} is a bundle")
        _verify_built(opened, Path(reference), runtime, steps, json_file)
        return
    require_export_extra()
    from codegen_edge.evaluation.parity.compare import DEFAULT_STEPS
    from codegen_edge.evaluation.parity.verify import verdict_of, verify_bundle
    from codegen_edge.exporter import locate_checkpoint, open_checkpoint

    located = locate_checkpoint(reference, revision=revision, offline=offline)
    with stderr.status("comparing every step with the reference"):
        checkpoint = open_checkpoint(located.folder)
        report = verify_bundle(opened, checkpoint, runtime=runtime, num_steps=DEFAULT_STEPS if steps is None else steps)
        source = checkpoint.source(located.name, located.revision)
    verdict = verdict_of(report, opened, source)
    if not verdict["reference"]["is_source"]:
        stderr.print(f"{reference} is not the checkpoint that {bundle} was made of", style="yellow")
    _conclude(opened, report, verdict, reference, json_file)


def _conclude(
    bundle: Bundle, report: ParityReport, verdict: dict[str, Any], reference: str, json_file: Path | None
) -> None:
    """Show the report, keep the verdict, and end with an error where the two differ."""
    from codegen_edge.bundle.storage import replace_file
    from codegen_edge.cli.console import stdout
    from codegen_edge.errors import ParityError

    stdout.print(parity_table(report))
    bundle.record_parity(verdict)
    if json_file is not None:
        replace_file(json_file, (json.dumps(verdict, indent=2) + "\n").encode())
    if not report.is_equal:
        raise ParityError(f"{bundle.path} is not equal to {reference}: {report.first_failure}")
    stdout.print(f"{bundle.path} is equal to {reference}")


def is_bundle(reference: str) -> bool:
    """Whether a reference is a bundle's folder, and no checkpoint."""
    from codegen_edge.bundle.storage import MANIFEST_FILE

    return (Path(reference) / MANIFEST_FILE).is_file()


def _verify_built(built: Bundle, source: Path, runtime: str | None, steps: int | None, json_file: Path | None) -> None:
    from codegen_edge.bundle import open_bundle
    from codegen_edge.cli.console import stderr
    from codegen_edge.evaluation.parity.compare import DEFAULT_STEPS
    from codegen_edge.evaluation.parity.verify import verify_built

    opened = open_bundle(source)
    with stderr.status("comparing every step with the bundle that it was built of"):
        report = verify_built(built, opened, runtime=runtime, num_steps=DEFAULT_STEPS if steps is None else steps)
    reference = {"name": source.name, "sha256": opened.fingerprint, "is_source": True}
    _conclude(built, report, report.to_dict() | {"reference": reference}, str(source), json_file)


def parity_table(report: ParityReport) -> Table:
    """The report as a table for the terminal."""
    from rich.box import SIMPLE
    from rich.table import Table

    title = f"{report.runtime} against the reference, {report.num_prompts} prompts, {report.num_steps} steps each"
    table = Table(title=title, title_justify="left", box=SIMPLE)
    table.add_column("fed as")
    for column in ("positions", "max |Δ|", "limit", "top-1", "near ties", "equal"):
        table.add_column(column, justify="right", no_wrap=True)
    for comparison in report.comparisons:
        table.add_row(
            comparison.scenario,
            str(comparison.positions),
            f"{comparison.max_abs_error:.1e}",
            f"{comparison.limit:.1e}",
            f"{comparison.top1_agreement:.2%}",
            str(comparison.near_ties),
            "yes" if comparison.is_equal else "NO",
        )
    return table
