"""`codegen-edge verify`: is a bundle equal to its reference?"""

from __future__ import annotations

import json
from pathlib import Path

import click

from codegen_edge.cli.choices import RUNTIME


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--reference",
    required=True,
    help="The checkpoint, a folder or a hub id; for what was built for a GPU the bundle that it was built of.",
)
@click.option("--revision", help="Branch, tag or commit of a hub id.")
@click.option("--offline", is_flag=True, help="Use the hub's local cache only.")
@click.option("--runtime", type=RUNTIME, help="Which runs the bundle.  [default: cpu; static-cpu for target tensorrt]")
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

    The verdict is written into the bundle's bundle.json; exit code 1 when they differ.

    codegen-edge verify my-bundle --reference Salesforce/codegen-350M-mono
    """
    from codegen_edge import workflows
    from codegen_edge.bundle import open_bundle
    from codegen_edge.bundle.storage import replace_file
    from codegen_edge.cli.console import stderr, stdout
    from codegen_edge.cli.progress import shown_progress
    from codegen_edge.cli.tables import parity_table
    from codegen_edge.errors import InvalidInputError, ParityError

    opened = open_bundle(bundle)
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise InvalidInputError(f"{json_file.absolute().parent} is not a folder; make it first")
    chosen = {} if steps is None else {"num_steps": steps}
    with shown_progress("comparing every step with the reference") as on_stage:
        verified = workflows.verify(
            opened, reference, runtime=runtime, revision=revision, offline=offline, on_stage=on_stage, **chosen
        )
    if not verified.is_source:
        stderr.print(f"{reference} is not the checkpoint that {bundle} was made of", style="yellow")
    stdout.print(parity_table(verified.report))
    if json_file is not None:
        replace_file(json_file, (json.dumps(verified.verdict, indent=2) + "\n").encode())
    if not verified.is_equal:
        raise ParityError(f"{bundle} is not equal to {reference}: {verified.report.first_failure}")
    stdout.print(f"{bundle} is equal to {reference}")
