"""From results folders to a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from codegen_edge.bundle.storage import replace_file
from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.report.comparison import Comparison, compared
from codegen_edge.evaluation.report.folders import read_runs
from codegen_edge.evaluation.report.markdown import markdown_report
from codegen_edge.evaluation.report.page import page
from codegen_edge.evaluation.report.results import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was written.

    Args:
        html_path: the page.
        html_bytes: its size.
        markdown_path: the Markdown, if it was asked for.
        runs: in the order of the folders.
        comparisons: of every two runs that can be compared.
    """

    html_path: Path
    html_bytes: int
    markdown_path: Path | None
    runs: tuple[Run, ...]
    comparisons: tuple[Comparison, ...]


def write_report(folders: Sequence[Path], html_path: Path, markdown_path: Path | None = None) -> Report:
    """Write what results folders say as one HTML page, and as Markdown if a path for it is given.

    Args:
        folders: of finished and unfinished runs, of one task or several.
        html_path: replaced if it is there.
        markdown_path: replaced if it is there.

    Raises:
        InvalidInputError: a folder is missing or damaged, or a path cannot be written to. Nothing is written then.
        StorageError: writing failed.
    """
    for path in (html_path, *([] if markdown_path is None else [markdown_path])):
        if path.is_dir():
            raise InvalidInputError(f"{path} is a folder; give the name of a file")
        if not path.absolute().parent.is_dir():
            raise InvalidInputError(f"{path.absolute().parent} is not a folder; make it first")
    if markdown_path is not None and markdown_path.absolute() == html_path.absolute():
        raise InvalidInputError(f"{html_path} cannot hold the page and the Markdown; give two names")
    runs = read_runs(folders)
    comparisons = compared(runs)
    document = page(runs, comparisons).encode()
    if markdown_path is not None:
        replace_file(markdown_path, markdown_report(runs, comparisons).encode())
    replace_file(html_path, document)
    return Report(
        html_path=html_path,
        html_bytes=len(document),
        markdown_path=markdown_path,
        runs=tuple(runs),
        comparisons=tuple(comparisons),
    )
