"""A run as one SVG file that needs nothing else: bars with their ranges, in light and dark."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from codegen_edge.evaluation.report.axes import Axis, amount_axis
from codegen_edge.evaluation.report.labels import cut_to_width, text_width
from codegen_edge.evaluation.report.markup import Markup, element, joined, svg
from codegen_edge.evaluation.speed.results import BundleSpeed, SpeedResult
from codegen_edge.evaluation.speed.timing import Spread

_WIDTH = 720
_MARGIN = 16
_NAMES = 240  # widest names of bundles
_NUMBERS = 170  # room for a number with its range
_BAR, _GAP = 16, 8
_HEAD, _FOOT = 30, 34  # of a panel: its title; the ticks of its axis
_CAP = 4  # half of a range's end
_COLOURS = ("surface", "line", "field-line", "text", "muted", "tone0", "tone1")
_SHARES_FROM = 1.0  # the limit is always on the axis of shares


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bar:
    """One bar: what stands before it and behind it."""

    name: str
    spread: Spread
    shown: str
    tone: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Panel:
    """Bars on one axis."""

    title: str
    bars: Sequence[_Bar]
    is_share: bool = False

    @property
    def height(self) -> int:
        return _HEAD + len(self.bars) * (_BAR + _GAP) + _FOOT

    @property
    def axis(self) -> Axis:
        highest = max(bar.spread.high for bar in self.bars)
        return amount_axis([max(highest, _SHARES_FROM) if self.is_share else highest])


def speed_chart(result: SpeedResult) -> str:
    """Draw decode, prefill, and the shares of the machine's limits, as an SVG document."""
    panels = [
        _Panel(title="Decode, tokens per second", bars=_rates(result.bundles, "decode_tokens_per_second", 0)),
        _Panel(title="Prefill, tokens per second", bars=_rates(result.bundles, "prefill_tokens_per_second", 1)),
    ]
    shares = _shares(result.bundles)
    if shares:
        panels.append(_Panel(title="Share of the machine's limit", bars=shares, is_share=True))
    names = min(_NAMES, max(text_width(bar.name) for panel in panels for bar in panel.bars))
    left = _MARGIN + int(names) + 10
    parts: list[Markup] = []
    y = _MARGIN
    for panel in panels:
        parts.append(_drawn(panel, left, y))
        y += panel.height + _GAP
    notes = _notes(result)
    for note in notes:
        y += 16
        parts.append(element("text", note, class_="tick", x=_MARGIN, y=y))
    height = y + _MARGIN
    surface = element("rect", class_="surface", width=_WIDTH, height=height, rx=8)
    return svg(
        *(_WIDTH, height, f"Speed of {', '.join(each.label for each in result.bundles)}", _description(panels)),
        _style(),
        surface,
        *parts,
        class_="speed",
        key="speed",
    )


def _rates(bundles: Sequence[BundleSpeed], figure: str, tone: int) -> list[_Bar]:
    bars = []
    for each in bundles:
        spread: Spread = getattr(each, figure)
        bars.append(_Bar(name=each.label, spread=spread, shown=_range(spread), tone=tone))
    return bars


def _shares(bundles: Sequence[BundleSpeed]) -> list[_Bar]:
    bars = []
    for each in bundles:
        if each.roofline is not None:
            for spread, what, tone in (
                (each.roofline.decode_of_memory, "decode: memory", 0),
                (each.roofline.prefill_of_products, "prefill: products", 1),
            ):
                shown = f"{spread.median:.0%} {what}"
                bars.append(_Bar(name=each.label, spread=spread, shown=shown, tone=tone))
    return bars


def _range(spread: Spread) -> str:
    digits = 0 if spread.high >= 100 else 1
    return f"{spread.median:,.{digits}f} ({spread.low:,.{digits}f}–{spread.high:,.{digits}f})"


def _drawn(panel: _Panel, left: int, top: int) -> Markup:
    """A panel with its upper edge at `top`."""
    axis = panel.axis
    width = _WIDTH - left - _NUMBERS
    bottom = top + panel.height - _FOOT
    parts = [element("text", panel.title, class_="axis-name", x=_MARGIN, y=top + 14)]
    for tick in axis.ticks:
        x = left + axis.share(tick) * width
        shown = f"{tick:.0%}" if panel.is_share else f"{tick:,.6g}"
        parts.append(element("line", class_="grid-line", x1=x, y1=top + _HEAD - 6, x2=x, y2=bottom))
        parts.append(element("text", shown, class_="tick", x=x, y=bottom + 16, text_anchor="middle"))
    for number, bar in enumerate(panel.bars):
        parts += _bar(bar, axis, left, width, top + _HEAD + number * (_BAR + _GAP))
    parts.append(element("line", class_="axis-line", x1=left, y1=top + _HEAD - 6, x2=left, y2=bottom))
    return element("g", *parts)


def _bar(bar: _Bar, axis: Axis, left: int, width: int, top: int) -> list[Markup]:
    end, low, high = (
        left + axis.share(value) * width for value in (bar.spread.median, bar.spread.low, bar.spread.high)
    )
    middle = top + _BAR / 2
    reach = f"M{low:.1f} {middle:.1f}H{high:.1f}"
    caps = "".join(f"M{x:.1f} {middle - _CAP:.1f}v{2 * _CAP}" for x in (low, high))
    # Of a long name the end is kept: what tells bundles of one model apart stands there.
    name = cut_to_width(bar.name[::-1], _NAMES)[::-1]
    return [
        element("text", name, x=left - 8, y=middle + 4, text_anchor="end"),
        element("rect", class_=f"tone{bar.tone}", x=left, y=top, width=max(1.0, end - left), height=_BAR),
        element("path", class_="range-edge", d=reach + caps),
        element("path", class_="range", d=reach + caps),
        element("text", bar.shown, class_="number", x=max(end, high) + 8, y=middle + 4),
    ]


def _notes(result: SpeedResult) -> list[str]:
    """Below the panels: the workload, the machine, and what the limits are."""
    settings, machine = result.settings, result.machine
    rows = "" if settings.batch == 1 else f"{settings.batch} rows of "
    notes = [
        f"{rows}{settings.prompt_tokens:,} prompt and {settings.new_tokens:,} new tokens; "
        f"{settings.rounds} rounds, median and range; {machine['threads']} threads, runtime {settings.runtime}",
        str(machine["processor"]),
    ]
    if result.limits is not None:
        notes.append(
            f"Limits in the same run: memory {result.limits.bandwidth / 1e9:.1f} GB/s, and each kind of product's own"
        )
    most = _WIDTH - 2 * _MARGIN
    return [cut_to_width(note, most) for note in notes]


def _description(panels: Sequence[_Panel]) -> str:
    return " ".join(f"{panel.title}: {'; '.join(f'{bar.name} {bar.shown}' for bar in panel.bars)}." for panel in panels)


def _style() -> Markup:
    """The report's colours, for light and for dark: a picture knows of no style sheet beside it."""
    sheet = files("codegen_edge.evaluation.report").joinpath("style.css").read_text(encoding="utf-8")
    found = dict(re.findall(r"--([\w-]+): light-dark\((.+?)\);", sheet))
    pairs = {name: found[name].split(", ") for name in _COLOURS}
    light = "".join(f"--{name}:{pair[0]};" for name, pair in pairs.items())
    dark = "".join(f"--{name}:{pair[1]};" for name, pair in pairs.items())
    tones = "".join(f".tone{number}{{fill:var(--tone{number})}}" for number in range(2))
    return element(
        "style",
        joined(
            [
                Markup(f"svg{{{light}}}@media (prefers-color-scheme:dark){{svg{{{dark}}}}}"),
                Markup(".surface{fill:var(--surface);stroke:var(--line)}"),
                Markup('text{fill:var(--text);font:12px system-ui,"Segoe UI","DejaVu Sans",sans-serif}'),
                Markup(".tick{fill:var(--muted)}.axis-name{font-weight:600}"),
                Markup(".grid-line{stroke:var(--line)}.axis-line{stroke:var(--field-line)}"),
                Markup(".number{paint-order:stroke;stroke:var(--surface);stroke-width:3px;stroke-linejoin:round}"),
                Markup(".range-edge{stroke:var(--surface);stroke-width:4;fill:none}"),
                Markup(f".range{{stroke:var(--text);stroke-width:1.5;fill:none}}{tones}"),
            ]
        ),
    )
