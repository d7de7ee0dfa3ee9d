"""`codegen-edge push`: a bundle to the hub."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import click

from codegen_edge.cli.bundles import BUNDLE
from codegen_edge.cli.output import json_option, print_json


@click.command()
@click.argument("bundle", type=BUNDLE)
@click.argument("repository", metavar="OWNER/NAME")
@click.option("--private", is_flag=True, help="Make a private repository, where there is none yet.")
@click.option("--branch", help="Commit there; it is made where it is not there.  [default: main]")
@click.option("--message", help="Of the commit.")
@json_option
def push(bundle: Path, repository: str, private: bool, branch: str | None, message: str | None, as_json: bool) -> None:
    """Upload BUNDLE to the repository OWNER/NAME of the hub, with a model card that holds its results.

    codegen-edge push my-int8-bundle me/codegen-350M-mono-int8
    """
    from codegen_edge import workflows
    from codegen_edge.cli.console import stderr, stdout

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # they would run through the line below
    with stderr.status("uploading"):
        pushed = workflows.push(bundle, repository, private=private, branch=branch, message=message)
    if as_json:
        print_json(asdict(pushed))
        return
    stdout.print(f"{pushed.url}: {pushed.num_files} files, {pushed.size_bytes / 1e6:.1f} MB", soft_wrap=True)
