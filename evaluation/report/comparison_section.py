"""The paired comparisons as a part of the page."""

from __future__ import annotations

from collections.abc import Sequence

from codegen_edge.evaluation.report.comparison import Comparison, shown_interval, shown_p, shown_points
from codegen_edge.evaluation.report.markup import Markup, element, joined
from codegen_edge.evaluation.report.results import Run
from codegen_edge.evaluation.report.sections import NONE, section, table

_HEAD = (
    *("Run", "Compared with", "Task", "Problems", "Pass rate", "Pass rate of the other"),
    *("Difference, points", "Only this one passes", "Only the other", "McNemar p", "Verdict"),
)


def comparison_section(comparisons: Sequence[Comparison], runs: Sequence[Run]) -> Markup:
    """A row for every two runs."""
    if not comparisons:
        reason = "Two finished runs of one task over the same problems are needed; there are none."
        return section("comparisons", "Paired comparisons", element("p", reason, class_="note"))
    notes = [
        "The pass rate is the mean over problems of the share of samples that passed. The difference is paired by "
        "problem, its 95% interval drawn over problems. McNemar's exact test looks at the first sample of each case. A "
        "difference is named only where its interval leaves out 0 and, with one sample per problem, p is below 0.05; "
        "else the verdict is “no difference”: none that this many problems can show.",
    ]
    if len(comparisons) > 1:
        notes.append(f"{len(comparisons)} pairs were compared. Of equal pairs, about one in twenty is named by chance.")
    notes += [
        f"{one.pair}: the settings differ as well ({', '.join(one.settings)})." for one in comparisons if one.settings
    ]
    notes += [
        f"{one.pair}: {one.num_left_out} problems that only one ran are left out."
        for one in comparisons
        if one.num_left_out
    ]
    unfinished = [run.label for run in runs if not run.is_finished]
    if unfinished:
        notes.append(f"Not compared, as unfinished: {', '.join(unfinished)}.")
    rows = [_row(one) for one in comparisons]
    content = table(_HEAD, rows, caption="Every two runs of the same task", numbers={3, 4, 5, 6, 7, 8, 9})
    return section("comparisons", "Paired comparisons", content, *(element("p", note, class_="note") for note in notes))


def _row(one: Comparison) -> list[str]:
    interval = NONE if one.interval is None else shown_interval(one.interval)
    points = element("b", shown_points(one.difference))
    difference = joined((points, " ", element("span", interval, class_="interval-text")))
    which = "" if one.is_single else element("span", "first samples", class_="interval-text")
    p_value = joined((shown_p(one.p_value), " ", which))
    verdict = element("span", one.verdict, class_="differs" if one.is_difference else "same")
    return [
        *(one.second.label, one.first.label, one.first.task, f"{one.num_problems:,}"),
        *(f"{one.second_rate:.1%}", f"{one.first_rate:.1%}", difference),
        *(f"{one.only_second:,}", f"{one.only_first:,}", p_value, verdict),
    ]
