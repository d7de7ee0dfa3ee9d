"""Parts of the page: the table of runs, the charts, what became of samples, the settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from codegen_edge.evaluation.report.kinds_chart import Bar, is_hatched, kind_class, kinds_chart
from codegen_edge.evaluation.report.markup import Markup, element, joined, small_svg
from codegen_edge.evaluation.report.results import Run, Score, ordered_kinds, score_names
from codegen_edge.evaluation.report.score_chart import NUM_SHAPES, NUM_TONES, Point, score_chart, shape_sample

NONE = "–"
# A drawing for each class of screen, so that text has the same size on both.
_WIDTHS = (("wide", 540), ("narrow", 340))
_MOST_ROWS = 16  # of a table that is shown whole
_WIDE_BARS = 1150
_BYTES_IN_MB = 1e6

# Tones of the style sheet; precisions that are not known here take what is left.
_TONES = ("fp32", "int8", "int4", "int8-dynamic", "fp16")


def section(key: str, title: str, *children: str) -> Markup:
    """A card of the page."""
    return element(
        *("section", element("h2", title, id=f"{key}-heading"), *children),
        class_="card",
        id=key,
        aria_labelledby=f"{key}-heading",
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str, numbers: set[int]) -> Markup:
    """A table that scrolls sideways where the screen is narrow.

    Args:
        head: of its columns.
        rows: cells; the first one of each heads the row.
        caption: for screen readers.
        numbers: which columns are aligned to the right.
    """

    def cell(name: str, text: str, column: int, scope: str | None = None) -> Markup:
        return element(name, text, scope=scope, class_="number" if column in numbers else None)

    header = element("tr", *(cell("th", text, column, "col") for column, text in enumerate(head)))
    body = [
        element("tr", cell("th", row[0], 0, "row"), *(cell("td", text, at) for at, text in enumerate(row[1:], start=1)))
        for row in rows
    ]
    content = element(
        *("table", element("caption", caption, class_="hidden"), element("thead", header), element("tbody", *body))
    )
    class_ = "scroll tall" if len(rows) > _MOST_ROWS else "scroll"
    return element("div", content, class_=class_, tabindex=0, role="region", aria_label=caption)


# ---- Runs -----------------------------------------------------------------------------------------------------------


def runs_section(runs: Sequence[Run]) -> Markup:
    """All runs with their scores."""
    names = score_names(runs)
    head = ["Run", "Task", "Bundle", "Precision", "Runtime", *names]
    numbers = set(range(5, 5 + len(names) + 3))
    head += ["Samples", "Tokens/s", "Bundle size", "Sandbox", "Processor"]
    rows = [_run_row(run, names) for run in runs]
    unfinished = [
        element("p", element("b", run.label), f": {run.state}. Scores follow when it is finished.", class_="notice")
        for run in runs
        if not run.is_finished
    ]
    unsafe = [
        element(
            "p", element("b", run.label), f": programs ran without bubblewrap ({run.about.sandbox}).", class_="notice"
        )
        for run in runs
        if run.about.sandbox not in {"", "bubblewrap"}
    ]
    note = "In brackets: 95% intervals, by drawing problems anew." if names else ""
    return section(
        *("runs", "Runs", *unfinished, *unsafe),
        table(head, rows, caption="All runs", numbers=numbers),
        element("p", note, class_="note"),
    )


def _run_row(run: Run, names: Sequence[str]) -> list[str]:
    about = run.about
    label = element("span", run.label, class_="run")
    mark = "" if run.is_finished else element("span", run.state, class_="mark")
    return [
        joined((label, mark)),
        *(run.task, about.bundle or NONE, about.precision or NONE, about.runtime or NONE),
        *(shown_score(run.score(name)) for name in names),
        f"{run.num_samples:,}",
        NONE if run.tokens_per_second is None else f"{run.tokens_per_second:,.1f}",
        shown_size(about.bundle_bytes),
        *(about.sandbox or NONE, about.processor or NONE),
    ]


def shown_score(score: Score | None) -> Markup:
    """A score and its interval, for HTML."""
    if score is None:
        return Markup(NONE)
    value = element("b", f"{score.value:.1%}")
    if score.interval is None:
        return value
    interval = f"[{100 * score.interval[0]:.1f}, {100 * score.interval[1]:.1f}]"
    return joined((value, " ", element("span", interval, class_="interval-text")))


def shown_size(size_bytes: int | None) -> str:
    """A size in MB or GB."""
    if size_bytes is None:
        return NONE
    return f"{size_bytes / 1e9:,.2f} GB" if size_bytes >= 1e9 else f"{size_bytes / _BYTES_IN_MB:,.1f} MB"


# ---- Scores against what they cost ----------------------------------------------------------------------------------


_Cost = tuple[str, Callable[[Run], float | None]]  # its name with the unit, and what a run costs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Styles:
    """The same in all charts: a colour for each precision, a marker for each runtime."""

    tones: dict[str, int]
    shapes: dict[str, int]


def scores_section(runs: Sequence[Run]) -> Markup:
    """The charts, by task and score."""
    styles = _Styles(
        tones=_numbered([run.about.precision for run in runs], _TONES),
        shapes=_numbered([run.about.runtime for run in runs]),
    )
    figures = [
        _figures(task, name, [run for run in runs if run.task == task], styles, f"chart-{number}-{place}")
        for number, task in enumerate(dict.fromkeys(run.task for run in runs))
        for place, name in enumerate(score_names([run for run in runs if run.task == task]))
    ]
    if not any(figures):
        return section("scores", "Scores, size and speed", element("p", "No run is finished.", class_="note"))
    return section("scores", "Scores, size and speed", *figures, _legend(styles))


def _figures(task: str, name: str, runs: Sequence[Run], styles: _Styles, key: str) -> Markup:
    scored = [run for run in runs if run.score(name) is not None]
    title = element("h3", f"{task}, {name}")
    costs: dict[str, _Cost] = {
        "size": ("Bundle size, MB", lambda run: (run.about.bundle_bytes or 0) / _BYTES_IN_MB),
        "speed": ("Tokens per second", lambda run: run.tokens_per_second),
    }
    figures = [_figure(scored, styles, name, cost, f"{key}-{kind}") for kind, cost in costs.items()]
    return element("div", title, element("div", *figures, class_="pair"))


def _figure(runs: Sequence[Run], styles: _Styles, name: str, cost: _Cost, key: str) -> Markup:
    amount, value_of = cost
    points = []
    for run in runs:
        x, score = value_of(run), run.score(name)
        if x is not None and x > 0 and score is not None:
            points.append(
                Point(
                    label=run.label,
                    x=x,
                    y=score.value,
                    interval=score.interval,
                    tone=styles.tones[run.about.precision] % NUM_TONES,
                    shape=styles.shapes[run.about.runtime] % NUM_SHAPES,
                )
            )
    if not points:
        return element("figure", element("figcaption", f"{amount}: not stated by any run.", class_="note"))
    drawings = [
        score_chart(points, score=name, amount=amount, width=width, key=f"{key}-{kind}", class_=f"chart {kind}")
        for kind, width in _WIDTHS
    ]
    rows = [
        [point.label, f"{point.x:,.4g}", shown_score(Score(name=name, value=point.y, interval=point.interval))]
        for point in points
    ]
    data = table(["Run", amount, name], rows, caption=f"{name} against {amount}", numbers={1, 2})
    return element("figure", *drawings, element("details", element("summary", "Data of this chart"), data))


def _numbered(values: Sequence[str], known: Sequence[str] = ()) -> dict[str, int]:
    """A number for each value: that of `known`, or the next one that is free."""
    numbers = {value: known.index(value) for value in values if value in known}
    free = (number for number in range(len(known) + len(values)) if number not in numbers.values())
    for value in dict.fromkeys(values):
        if value not in numbers:
            numbers[value] = next(free)
    return numbers


def _legend(styles: _Styles) -> Markup:
    colours = [
        element("li", shape_sample(tone % NUM_TONES, 0), precision or "precision not stated")
        for precision, tone in styles.tones.items()
    ]
    markers = [
        element("li", shape_sample(NUM_TONES, shape % NUM_SHAPES), runtime or "runtime not stated")
        for runtime, shape in styles.shapes.items()
    ]
    return element(
        *("div", element("p", "Colour: precision"), element("ul", *colours)),
        *(element("p", "Marker: runtime"), element("ul", *markers)),
        element("p", "Bars: 95% intervals. Points that would cover one another stand side by side."),
        class_="legend",
    )


# ---- What became of the samples -------------------------------------------------------------------------------------


def kinds_section(runs: Sequence[Run]) -> Markup:
    """Failure kinds of every run, drawn and as a table."""
    tasks = list(dict.fromkeys(run.task for run in runs))
    bars = [
        Bar(label=run.label if len(tasks) == 1 else f"{run.task}, {run.label}", kinds=run.kinds)
        for run in runs
        if run.num_samples
    ]
    if not bars:
        return section("kinds", "What became of the samples", element("p", "No sample was executed.", class_="note"))
    kinds = ordered_kinds({kind for bar in bars for kind in bar.kinds})
    legend = [element("li", _swatch(kind), kind) for kind in kinds]
    rows = [[bar.label, *(f"{bar.kinds.get(kind, 0):,}" for kind in kinds), f"{bar.total:,}"] for bar in bars]
    drawings = [
        kinds_chart(bars, width=width, key=f"kinds-{kind}", class_=f"bars {kind}")
        for kind, width in (("wide", _WIDE_BARS), ("narrow", 340))
    ]
    head = ["Run", *kinds, "all"]
    data = table(head, rows, caption="Samples of each kind", numbers=set(range(1, len(head))))
    return section(
        *("kinds", "What became of the samples", *drawings),
        element("ul", *legend, class_="legend"),
        element("details", element("summary", "Data of this chart"), data),
    )


def _swatch(kind: str) -> Markup:
    parts = [element("rect", class_=f"piece {kind_class(kind)}", width=16, height=16)]
    if is_hatched(kind):
        parts.append(element("path", d="M0 6L6 0M0 16L16 0M8 16L16 8", class_="hatch"))
    return small_svg(*parts)


# ---- Settings -------------------------------------------------------------------------------------------------------


def settings_section(runs: Sequence[Run]) -> Markup:
    """Configuration and environment of each run, folded."""
    return section("settings", "Configuration and environment", *(_settings(run) for run in runs))


def _settings(run: Run) -> Markup:
    blocks = (
        ("Run", {"task": run.task, "configuration hash": run.hash, "folder": run.folder.name}),
        ("Configuration", flattened(run.configuration)),
        ("Environment", flattened(run.about.values)),
    )
    parts = [
        element(
            "div",
            element("h3", title),
            element("dl", *(element("div", element("dt", key), element("dd", text)) for key, text in values.items())),
        )
        for title, values in blocks
    ]
    return element("details", element("summary", f"{run.task}, {run.label}"), element("div", *parts, class_="settings"))


def flattened(values: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Nested objects as one: {"a": {"b": 1}} -> {"a.b": "1"}."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(flattened(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return flat
