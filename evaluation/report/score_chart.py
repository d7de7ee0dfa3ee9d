"""The chart of scores with their intervals against what they cost: size, or speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from codegen_edge.evaluation.report.axes import Axis, amount_axis, score_axis
from codegen_edge.evaluation.report.labels import Box, Placed, cut_to_width, place_labels, text_width
from codegen_edge.evaluation.report.markup import Markup, element, small_svg, svg

NUM_TONES = 6  # colours that the style sheet has
NUM_SHAPES = 5
_HEIGHT = 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 20, 26, 46  # margins of the plot
_POINT = 6  # half of a marker
_CLOSE = 9.0  # points nearer than this would cover one another
_APART = 11.0
_WIDEST = 36.0  # that a group of such points is spread over
_CAP = 4  # half of an interval's end


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A run in the chart.

    Args:
        label: what stands beside it.
        x: size in MB, or speed in tokens per second; more than 0.
        y: the score.
        interval: of the score.
        tone: which colour, by precision.
        shape: which marker, by runtime.
    """

    label: str
    x: float
    y: float
    interval: tuple[float, float] | None
    tone: int
    shape: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plot:
    """The area between the axes."""

    x_axis: Axis
    y_axis: Axis
    width: int

    def x(self, value: float) -> float:
        return _LEFT + self.x_axis.share(value) * (self.width - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - self.y_axis.share(value) * (_HEIGHT - _TOP - _BOTTOM)


def score_chart(points: Sequence[Point], *, score: str, amount: str, width: int, key: str, class_: str) -> Markup:
    """Draw the points.

    Args:
        points: at least one.
        score: the name of the score, for the vertical axis.
        amount: the name of what is on the horizontal axis, with its unit.
        width: CSS pixels.
        key: unique in the page.
        class_: for the style sheet.
    """
    plot = _Plot(
        x_axis=amount_axis([point.x for point in points]),
        y_axis=score_axis([bound for point in points for bound in (point.y, *(point.interval or ()))]),
        width=width,
    )
    centres = list(
        zip(
            _side_by_side([plot.x(point.x) for point in points]),
            map(plot.y, [point.y for point in points]),
            strict=True,
        )
    )
    markers = [Box(x - _POINT - 1, y - _POINT - 1, x + _POINT + 1, y + _POINT + 1) for x, y in centres]
    markers.append(Box(0, 0, text_width(score) + 12, _TOP - 4))  # the name of the vertical axis
    lines = [
        Box(x - 2, plot.y(point.interval[1]), x + 2, plot.y(point.interval[0]))
        for point, (x, _) in zip(points, centres, strict=True)
        if point.interval is not None
    ]
    bounds = Box(_LEFT + 2, 2, width - 2, _HEIGHT - _BOTTOM - 2)
    texts = [cut_to_width(point.label, 0.55 * (width - _LEFT)) for point in points]
    labels = place_labels(texts, centres, markers=markers, lines=lines, bounds=bounds)
    marks = [_interval(point, x, plot) for point, (x, _) in zip(points, centres, strict=True)]
    marks += [_leader(centre, label) for centre, label in zip(centres, labels, strict=True)]
    marks += [_marker(point, centre) for point, centre in zip(points, centres, strict=True)]
    marks += [
        _label(text, label, centre[0])
        for text, label, centre in zip(texts, labels, centres, strict=True)
        if label is not None
    ]
    return svg(
        *(width, _HEIGHT, f"{score} against {amount}", _description(points, score, amount)),
        *_frame(plot, score, amount),
        *marks,
        class_=class_,
        key=key,
    )


def _side_by_side(places: Sequence[float]) -> list[float]:
    """Places moved apart by a few pixels where points would cover one another."""
    moved = list(places)
    group: list[int] = []
    order = sorted(range(len(places)), key=lambda at: places[at])
    for at in [*order, None]:
        if at is not None and (not group or places[at] - places[group[0]] < _CLOSE):
            group.append(at)
            continue
        middle = sum(places[one] for one in group) / len(group)
        apart = min(_APART, _WIDEST / len(group))
        for number, one in enumerate(group):
            if len(group) > 1:
                moved[one] = max(middle + (number - (len(group) - 1) / 2) * apart, _LEFT + _POINT)
        group = [] if at is None else [at]
    return moved


def _frame(plot: _Plot, score: str, amount: str) -> list[Markup]:
    """Grid lines, ticks, and the names of the axes."""
    right, bottom = plot.width - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for tick in plot.y_axis.ticks:
        y = plot.y(tick)
        parts.append(element("line", class_="grid-line", x1=_LEFT, y1=y, x2=right, y2=y))
        parts.append(element("text", f"{100 * tick:.4g}%", class_="tick", x=_LEFT - 7, y=y + 4, text_anchor="end"))
    for tick in plot.x_axis.ticks:
        x = plot.x(tick)
        parts.append(element("line", class_="tick-line", x1=x, y1=bottom, x2=x, y2=bottom + 4))
        parts.append(element("text", f"{tick:,.6g}", class_="tick", x=x, y=bottom + 17, text_anchor="middle"))
    scale = ", log scale" if plot.x_axis.is_log else ""
    parts.append(element("line", class_="axis-line", x1=_LEFT, y1=bottom, x2=right, y2=bottom))
    parts.append(element("text", score, class_="axis-name", x=4, y=14))
    middle = (_LEFT + right) / 2
    parts.append(element("text", f"{amount}{scale}", class_="axis-name", x=middle, y=_HEIGHT - 8, text_anchor="middle"))
    return parts


def _interval(point: Point, x: float, plot: _Plot) -> Markup:
    if point.interval is None:
        return Markup("")
    low, high = plot.y(point.interval[0]), plot.y(point.interval[1])
    path = f"M{x:.1f} {low:.1f}V{high:.1f}M{x - _CAP:.1f} {low:.1f}h{2 * _CAP}M{x - _CAP:.1f} {high:.1f}h{2 * _CAP}"
    return element("path", class_=f"interval tone{point.tone}", d=path)


def _marker(point: Point, centre: tuple[float, float]) -> Markup:
    x, y = centre
    return element("g", element("title", _sentence(point)), _shape(point, x, y), class_=f"marker tone{point.tone}")


def _shape(point: Point, x: float, y: float) -> Markup:
    half = _POINT
    paths = (
        "",
        f"M{x - 5:.1f} {y - 5:.1f}h10v10h-10z",
        f"M{x:.1f} {y - half - 1:.1f}l7 7l-7 7l-7 -7z",
        f"M{x:.1f} {y - half:.1f}l7 12h-14z",
        f"M{x:.1f} {y + half:.1f}l7 -12h-14z",
    )
    if point.shape % NUM_SHAPES == 0:
        return element("circle", cx=x, cy=y, r=half)
    return element("path", d=paths[point.shape % NUM_SHAPES])


def shape_sample(tone: int, shape: int) -> Markup:
    """A marker by itself, for a legend."""
    point = Point(label="", x=1, y=0, interval=None, tone=tone, shape=shape)
    return small_svg(element("g", _shape(point, 8, 8), class_=f"marker tone{tone}"))


def _leader(centre: tuple[float, float], label: Placed | None) -> Markup:
    if label is None or not label.is_led:
        return Markup("")
    x, y = centre
    box = label.box
    if box.left <= x <= box.right:
        return element("line", class_="leader", x1=x, y1=y, x2=x, y2=box.top if box.top > y else box.bottom)
    end = box.left - 2 if box.left > x else box.right + 2
    return element("line", class_="leader", x1=x, y1=y, x2=end, y2=(box.top + box.bottom) / 2)


def _label(text: str, label: Placed, x: float) -> Markup:
    is_left = label.box.right < x
    return element(
        "text",
        text,
        class_="label",
        x=label.box.right if is_left else label.box.left,
        y=label.box.bottom - 4,
        text_anchor="end" if is_left else None,
    )


def _sentence(point: Point) -> str:
    interval = "" if point.interval is None else f" [{point.interval[0]:.1%}, {point.interval[1]:.1%}]"
    return f"{point.label}: {point.y:.1%}{interval} at {point.x:,.4g}"


def _description(points: Sequence[Point], score: str, amount: str) -> str:
    runs = "; ".join(_sentence(point) for point in points)
    return f"{score} with its 95% interval, upwards, against {amount}, to the right. {runs}."
