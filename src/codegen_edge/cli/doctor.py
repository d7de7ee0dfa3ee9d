"""`codegen-edge doctor`: what this machine has, and what to install for the rest."""

from __future__ import annotations

import click


@click.command()
def doctor() -> None:
    """Show which parts of codegen-edge work on this machine. Exit code 1 when none can generate.

    codegen-edge doctor
    """
    from rich.table import Table

    from codegen_edge.cli.console import stderr, stdout
    from codegen_edge.workflows.diagnosis import diagnose

    with stderr.status("trying what is installed"):
        findings = diagnose()
    table = Table("part", "state", "found", "to repair")
    for finding in findings:
        table.add_row(finding.part, "ok" if finding.is_ok else "missing", finding.found, finding.remedy)
    stdout.print(table)
    if not any(finding.is_ok for finding in findings if finding.can_generate):
        raise click.exceptions.Exit(1)
