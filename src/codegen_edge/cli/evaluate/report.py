"""`codegen-edge evaluate report`: results folders as one HTML page."""

from __future__ import annotations

from pathlib import Path

import click

from codegen_edge.cli.output import json_option, print_json
from codegen_edge.cli.paths import PATH


@click.command()
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=PATH)
@click.option(
    "--out",
    type=PATH,
    default=Path("report.html"),
    show_default=True,
    help="The HTML page; replaced if it is there.",
)
@click.option("--markdown", type=PATH, help="Also write a table and the comparisons for a README.")
@json_option
def report(folders: tuple[Path, ...], out: Path, markdown: Path | None, as_json: bool) -> None:
    """Write the results folders DIR... as one HTML page that needs no network: scores, comparisons, completions.

    codegen-edge evaluate report results-fp32 results-int8 --out report.html --markdown report.md
    """
    from codegen_edge.cli.console import stderr, stdout
    from codegen_edge.evaluation.report import write_report

    with stderr.status("reading the results"):
        written = write_report(folders, out, markdown)
    for run in written.runs:
        if not run.is_finished:
            stderr.print(f"{run.folder}: {run.state}", style="yellow")
    if as_json:
        names = [str(path) for path in (written.html_path, written.markdown_path) if path is not None]
        sentences = [comparison.sentence for comparison in written.comparisons]
        print_json({"files": names, "num_runs": len(written.runs), "comparisons": sentences})
        return
    for comparison in written.comparisons:
        stdout.print(comparison.sentence)
    files = " and ".join(str(path) for path in (written.html_path, written.markdown_path) if path is not None)
    size = f"{written.html_bytes / 1e6:.1f} MB"
    stdout.print(f"{files}: {len(written.runs)} run{'' if len(written.runs) == 1 else 's'}, {size}")
