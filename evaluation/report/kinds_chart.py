"""The chart of what became of a run's samples: a bar for each run, a piece of it for each kind of failure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from codegen_edge.evaluation.report.labels import cut_to_width, text_width
from codegen_edge.evaluation.report.markup import Markup, element, joined, svg
from codegen_edge.evaluation.report.results import KINDS, ordered_kinds

_ROW = 54  # CSS pixels: a line of text and a bar
_BAR_TOP, _BAR = 20, 24
_FIRST_HATCHED = KINDS.index("exit")  # kinds from here on share colours with others and are hatched


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A run: its label, how many samples it has, and how many of them are of each kind."""

    label: str
    kinds: Mapping[str, int]

    @property
    def total(self) -> int:
        """Samples of all kinds."""
        return sum(self.kinds.values())


def kinds_chart(bars: Sequence[Bar], *, width: int, key: str, class_: str) -> Markup:
    """Draw the bars, each as wide as the others: shares are compared, not numbers of samples."""
    rows = [joined(_row(bar, number, width, key)) for number, bar in enumerate(bars)]
    hatch = element(
        "pattern",
        element("path", d="M0 6L6 0", class_="hatch"),
        id=f"{key}-hatch",
        width=6,
        height=6,
        patternUnits="userSpaceOnUse",
    )
    sentences = "; ".join(f"{bar.label}: {_shares(bar)}" for bar in bars)
    return svg(
        *(width, _ROW * len(bars), "What became of the samples", f"{sentences}."),
        element("defs", hatch),
        *rows,
        class_=class_,
        key=key,
    )


def _row(bar: Bar, number: int, width: int, key: str) -> list[Markup]:
    top = _ROW * number
    samples = f"{bar.total:,} sample{'' if bar.total == 1 else 's'}"
    shown = cut_to_width(bar.label, width - text_width(samples) - 12)
    parts = [
        element("text", shown, class_="label", x=0, y=top + 14),
        element("text", samples, class_="tick", x=width, y=top + 14, text_anchor="end"),
    ]
    x = 0.0
    for kind in ordered_kinds(set(bar.kinds)):
        count = bar.kinds[kind]
        piece = width * count / bar.total
        parts.append(_piece(kind, count, bar.total, (x, top + _BAR_TOP, piece), key))
        x += piece
    return parts


def _piece(kind: str, count: int, total: int, place: tuple[float, int, float], key: str) -> Markup:
    x, y, width = place
    box = {"x": x, "y": y, "width": width, "height": _BAR}
    parts = [
        element("title", f"{kind}: {count:,} of {total:,} ({count / total:.1%})"),
        element("rect", class_=f"piece {kind_class(kind)}", **box),
    ]
    if is_hatched(kind):
        parts.append(element("rect", fill=f"url(#{key}-hatch)", **box))
    for text in (f"{kind} {count / total:.0%}", kind):
        if text_width(text) + 14 <= width:
            parts.append(element("text", text, class_="label", x=x + 6, y=y + 16))
            break
    return element("g", *parts)


def kind_class(kind: str) -> str:
    """The class of the style sheet that colours a kind."""
    return f"kind-{kind}" if kind in KINDS else "kind-other"


def is_hatched(kind: str) -> bool:
    """Whether a kind is told apart by hatching."""
    return kind not in KINDS or KINDS.index(kind) >= _FIRST_HATCHED


def _shares(bar: Bar) -> str:
    return ", ".join(f"{kind} {bar.kinds[kind] / bar.total:.1%}" for kind in ordered_kinds(set(bar.kinds)))
