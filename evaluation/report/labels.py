"""Labels beside the points of a chart, placed so that none covers a point or another label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

FONT_SIZE = 12  # CSS pixels
_CHARACTER = 0.62 * FONT_SIZE  # DejaVu Sans, the widest of the page's fonts, on average
_LINE = 1.3 * FONT_SIZE
_GAP = 9.0  # between a point's centre and its label
_STEPS = 14  # lines up and down that a label may be moved by


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        """Whether the two share an area."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def holds(self, other: Box) -> bool:
        """Whether `other` lies inside."""
        return (
            self.left <= other.left
            and self.top <= other.top
            and self.right >= other.right
            and self.bottom >= other.bottom
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A label's box, and whether it stands so far off that a line leads to it."""

    box: Box
    is_led: bool


def text_width(text: str) -> float:
    """About how wide a text is drawn, rather more than less."""
    return len(text) * _CHARACTER


def cut_to_width(text: str, width: float) -> str:
    """The text, or its beginning and an ellipsis where it is wider."""
    most = max(1, int(width / _CHARACTER))
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def place_labels(
    texts: Sequence[str],
    points: Sequence[tuple[float, float]],
    *,
    markers: Sequence[Box],
    lines: Sequence[Box],
    bounds: Box,
) -> list[Placed | None]:
    """A place for every label; None where there is no free one, which takes very many points.

    Args:
        texts: of the labels.
        points: what they belong to.
        markers: where no label may stand.
        lines: where a label stands only if all other places are taken.
        bounds: where all labels must stand.
    """
    occupied = list(markers)
    placed: list[Placed | None] = [None] * len(texts)
    # From the top: a label that must give way goes down, where the next one is not placed yet.
    for at in sorted(range(len(texts)), key=lambda each: points[each][1]):
        candidates = [each for each in _candidates(text_width(texts[at]), *points[at]) if bounds.holds(each.box)]
        label = _first_free(candidates, [*occupied, *lines]) or _first_free(candidates, occupied)
        if label is not None:
            placed[at] = label
            occupied.append(label.box)
    return placed


def _first_free(candidates: Sequence[Placed], occupied: Sequence[Box]) -> Placed | None:
    free = (each for each in candidates if not any(each.box.overlaps(box) for box in occupied))
    return next(free, None)


def _candidates(width: float, x: float, y: float) -> list[Placed]:
    """Right, left, above, below; then further and further off."""

    def box(left: float, middle: float) -> Box:
        return Box(left, middle - _LINE / 2, left + width, middle + _LINE / 2)

    near = [box(x + _GAP, y), box(x - _GAP - width, y)]
    near += [box(x + _GAP, y - 0.6 * _LINE), box(x + _GAP, y + 0.6 * _LINE)]
    near += [box(x - _GAP - width, y - 0.6 * _LINE), box(x - _GAP - width, y + 0.6 * _LINE)]
    far = [
        box(left, y + sign * step * _LINE)
        for step in range(1, _STEPS)
        for offset in (2 * _GAP, 5 * _GAP, 9 * _GAP)
        for left in (x + offset, x - offset - width, x - width / 2)
        for sign in (1, -1)
    ]
    far.sort(key=lambda each: math.hypot(max(each.left - x, x - each.right, 0.0), (each.top + each.bottom) / 2 - y))
    return [Placed(box=each, is_led=False) for each in near] + [Placed(box=each, is_led=True) for each in far]
