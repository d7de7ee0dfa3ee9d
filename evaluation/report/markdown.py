"""The report as Markdown, for a README: a table of scores, and the comparisons in sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence

from codegen_edge.evaluation.report.comparison import Comparison
from codegen_edge.evaluation.report.json_fields import cleaned
from codegen_edge.evaluation.report.results import Run, Score, score_names
from codegen_edge.evaluation.report.sections import NONE, shown_size

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#&~])")


def markdown_report(runs: Sequence[Run], comparisons: Sequence[Comparison]) -> str:
    """A table with a row for each run, and a line for every two runs that were compared."""
    names = score_names(runs)
    head = [
        "Task",
        "Bundle",
        "Precision",
        "Runtime",
        *names,
        "Samples",
        "Tokens/s",
        "Bundle size",
        "Sandbox",
        "Processor",
    ]
    first_number, last_number = 4, 4 + len(names) + 2
    rule = ["---:" if first_number <= at <= last_number else "---" for at in range(len(head))]
    lines = [_line([_escaped(text) for text in head]), _line(rule)]
    lines += [_line([_escaped(text) for text in _row(run, names)]) for run in runs]
    if names:
        lines += ["", "In brackets: 95% intervals over problems."]
    if comparisons:
        lines.append("")
        lines += [f"- {_escaped(comparison.sentence)}" for comparison in comparisons]
    return "\n".join(lines) + "\n"


def _row(run: Run, names: Sequence[str]) -> list[str]:
    about = run.about
    scores = [_score(run.score(name)) for name in names]
    task = run.task if run.is_finished else f"{run.task} ({run.state})"
    return [
        *(task, about.bundle or NONE, about.precision or NONE, about.runtime or NONE, *scores),
        f"{run.num_samples:,}",
        NONE if run.tokens_per_second is None else f"{run.tokens_per_second:,.1f}",
        *(shown_size(about.bundle_bytes), about.sandbox or NONE, about.processor or NONE),
    ]


def _score(score: Score | None) -> str:
    if score is None:
        return NONE
    if score.interval is None:
        return f"{score.value:.1%}"
    return f"{score.value:.1%} [{100 * score.interval[0]:.1f}, {100 * score.interval[1]:.1f}]"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    """The text on one line, with nothing that Markdown or HTML reads as more than text."""
    return _SPECIAL.sub(r"\\\1", " ".join(cleaned(text).split()))
