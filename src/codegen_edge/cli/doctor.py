"""`codegen-edge doctor`: what this machine has, and what to install for the rest."""

from __future__ import annotations

from dataclasses import asdict

import click

from codegen_edge.cli.output import json_option, print_json

_INDENT = 29  # "missing  " and the longest part


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Show which parts of codegen-edge work on this machine. Exit code 3 when none can generate.

    codegen-edge doctor
    """
    from codegen_edge.cli.console import stderr, stdout
    from codegen_edge.cli.ending import ENVIRONMENT
    from codegen_edge.cli.layout import described
    from codegen_edge.workflows.diagnosis import diagnose

    with stderr.status("trying what is installed"):
        findings = diagnose()
    can_generate = any(finding.is_ok for finding in findings if finding.can_generate)
    if as_json:
        print_json({"can_generate": can_generate, "findings": [asdict(finding) for finding in findings]})
    for finding in () if as_json else findings:
        state = "ok" if finding.is_ok else "missing"
        click.echo(described(f"{state:<9}{finding.part}", finding.found, stdout, indent=_INDENT))
        if finding.remedy:
            click.echo(described("         to repair:", finding.remedy, stdout, indent=_INDENT))
    if not can_generate:
        raise click.exceptions.Exit(ENVIRONMENT)
