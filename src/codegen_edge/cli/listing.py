"""`codegen-edge list`: the bundles under a folder."""

from __future__ import annotations

from pathlib import Path

import click

from codegen_edge.cli.output import print_json
from codegen_edge.cli.paths import PATH


@click.command("list")
@click.argument("folder", type=PATH, default=".")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per bundle instead.")
def list_command(folder: Path, as_json: bool) -> None:
    """Show the bundles under FOLDER (here, without one) with size, precision and verdict.

    codegen-edge list my-models
    """
    from codegen_edge.cli.console import stderr, stdout
    from codegen_edge.cli.tables import bundle_table
    from codegen_edge.workflows.listing import list_bundles

    found = list(list_bundles(folder))
    if as_json:
        for each in found:
            manifest = each.manifest
            print_json(
                {
                    "path": str(each.path),
                    "size_bytes": each.size_bytes,
                    "source": None if manifest is None else manifest.source.name,
                    "task": None if manifest is None else manifest.task,
                    "target": None if manifest is None else manifest.target,
                    "precision": None if manifest is None else manifest.precision,
                    "verdict": each.verdict,
                    "problem": each.problem or None,
                }
            )
    elif found:
        stdout.print(bundle_table(found))
    if not found:
        stderr.print(f"there is no bundle under {folder}", soft_wrap=True)
