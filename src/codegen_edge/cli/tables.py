"""Reports as tables and lines for the terminal."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rich.table import Table

    from codegen_edge.bundle.manifest import FileRecord
    from codegen_edge.evaluation.parity.compare import ParityReport
    from codegen_edge.workflows.listing import Listed

_NOTE_WIDTH = 78  # columns below a table


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


def budget_line(budget: dict[str, Any]) -> str:
    """What a budget kept at 8 bits, and why, in a sentence."""
    kept = budget["kept_at_8_bits"]
    worth = {each["name"]: each["mean_kl"] for each in budget["sensitivities"]}
    named = ", ".join(f"{name.removesuffix('.weight')} (alone: KL {worth[name]:.1e})" for name in kept) or "none"
    reached = f"KL {budget['reached_kl']:.1e} of {budget['budget_kl']:.1e} allowed"
    return f"kept at 8 bits, {len(kept)} of {len(worth)} matrices, by divergence saved for a byte: {named}; {reached}"


def tensor_table(report: dict[str, Any]) -> Table:
    """A quantization report's matrices as a table; equal rows of many layers are put together, and why below them."""
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(title=f"{report['scheme']}, matrix by matrix", title_justify="left", box=SIMPLE)
    table.add_column("matrices", no_wrap=True)
    for column in ("relative error", "bytes before", "after"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("stored as", overflow="fold")
    kinds: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for tensor in report["tensors"]:
        key = (tensor["name"].split(".")[-2], tensor["form"], tensor["reason"])
        kinds.setdefault(key, []).append(tensor)
    reasons = {reason: str(number) for number, reason in enumerate(dict.fromkeys(key[2] for key in kinds), start=1)}
    for (kind, form, reason), tensors in kinds.items():
        errors = [tensor["relative_error"] for tensor in tensors]
        span = f"{min(errors):.2%}" if len(errors) == 1 else f"{min(errors):.2%}-{max(errors):.2%}"
        table.add_row(
            kind if len(tensors) == 1 else f"{len(tensors)} × {kind}",
            span,
            f"{sum(tensor['bytes_before'] for tensor in tensors):,}",
            f"{sum(tensor['bytes_after'] for tensor in tensors):,}",
            f"{form} ({reasons[reason]})",
        )
    notes = [textwrap.wrap(f"({number}) {reason}", _NOTE_WIDTH) for reason, number in reasons.items()]
    table.caption = "\n".join(line for lines in notes for line in lines)
    table.caption_justify = "left"
    return table


def file_table(files: Mapping[str, FileRecord]) -> Table:
    """The files of a bundle: name, size and the beginning of the hash; a long name is folded."""
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(box=SIMPLE)
    table.add_column("file", overflow="fold")
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("sha256 begins with", no_wrap=True)
    for name, record in files.items():
        table.add_row(name, f"{record.size_bytes:,}", record.sha256[:16])
    return table


def bundle_table(bundles: Iterable[Listed]) -> Table:
    """Bundles with size, precision and verdict; one that cannot be opened with the reason instead."""
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(box=SIMPLE)
    table.add_column("bundle", overflow="fold")
    table.add_column("MB", justify="right", no_wrap=True)
    table.add_column("precision", no_wrap=True)
    table.add_column("made of", overflow="fold")
    table.add_column("verdict", overflow="fold")
    for each in bundles:
        manifest = each.manifest
        if manifest is None:
            table.add_row(str(each.path), "", "", "", each.problem)
            continue
        target = "" if manifest.target == "ort" else f", {manifest.target}"
        precision = f"{manifest.precision}{target}"
        table.add_row(str(each.path), f"{each.size_bytes / 1e6:,.1f}", precision, manifest.source.name, each.verdict)
    return table
