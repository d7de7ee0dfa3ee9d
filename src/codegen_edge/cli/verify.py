"""`codegen-edge verify`: is a bundle equal to its reference?"""

from __future__ import annotations

import json
from pathlib import Path

import click

from codegen_edge.cli.bundles import BUNDLE
from codegen_edge.cli.choices import RUNTIME
from codegen_edge.cli.output import check_report, json_option, print_json
from codegen_edge.cli.paths import PATH


@click.command()
@click.argument("bundle", type=BUNDLE)
@click.option(
    "--reference",
    required=True,
    help="The checkpoint, a folder or a hub id; for what was built for a GPU the bundle that it was built of.",
)
@click.option("--revision", help="Branch, tag or commit of a hub id.")
@click.option("--offline", is_flag=True, help="Use the hub's local cache only.")
@click.option("--runtime", type=RUNTIME, help="Which runs the bundle.  [default: cpu; static-cpu for target tensorrt]")
@click.option("--steps", type=int, help="Decode steps after each prompt.  [default: 16]")
@click.option("--store/--no-store", default=True, show_default=True, help="Keep the verdict in BUNDLE's bundle.json.")
@click.option("--report", "report_file", type=PATH, help="Also write the report to this file.")
@json_option
def verify(
    bundle: Path,
    reference: str,
    revision: str | None,
    offline: bool,
    runtime: str | None,
    steps: int | None,
    store: bool,
    report_file: Path | None,
    as_json: bool,
) -> None:
    """Compare BUNDLE with the checkpoint, logit by logit and step by step.

    Exit code 1 when they differ. The verdict is kept in BUNDLE, where that can be written.

    codegen-edge verify my-bundle --reference Salesforce/codegen-350M-mono
    """
    from codegen_edge import workflows
    from codegen_edge.bundle import open_bundle
    from codegen_edge.bundle.storage import replace_file
    from codegen_edge.cli.console import stderr, stdout
    from codegen_edge.cli.progress import shown_progress
    from codegen_edge.cli.tables import parity_table
    from codegen_edge.errors import ParityError

    opened = open_bundle(bundle)
    if report_file is not None:
        check_report(report_file)
    chosen = {} if steps is None else {"num_steps": steps}
    with shown_progress("comparing every step with the reference") as on_stage:
        verified = workflows.verify(
            opened,
            reference,
            runtime=runtime,
            revision=revision,
            offline=offline,
            store=store,
            on_stage=on_stage,
            **chosen,
        )
    if not verified.is_source:
        stderr.print(f"{reference} is not the checkpoint that {bundle} was made of", style="yellow")
    if as_json:
        print_json(verified.verdict)
    else:
        stdout.print(parity_table(verified.report))
    if report_file is not None:
        replace_file(report_file, (json.dumps(verified.verdict, indent=2) + "\n").encode())
    if store and verified.not_stored:
        stderr.print(f"the verdict is not in {bundle}: {verified.not_stored}", style="yellow", soft_wrap=True)
    if not verified.is_equal:
        raise ParityError(f"{bundle} is not equal to {reference}: {verified.report.first_failure}")
    if not as_json:
        stdout.print(f"{bundle} is equal to {reference}")
