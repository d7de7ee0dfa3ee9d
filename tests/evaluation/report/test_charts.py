"""The drawings: well-formed, readable, and with labels that cover nothing."""

from __future__ import annotations

import itertools
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_edge.evaluation.report.axes import Axis, amount_axis, score_axis
from codegen_edge.evaluation.report.kinds_chart import Bar, kinds_chart
from codegen_edge.evaluation.report.labels import Box, place_labels
from codegen_edge.evaluation.report.results import KINDS
from codegen_edge.evaluation.report.score_chart import Point, score_chart
from codegen_edge.evaluation.sandbox import FailureKind

NAMESPACE = "{http://www.w3.org/2000/svg}"


def points(count: int, *, label: str = "int8-dynamic cpu") -> list[Point]:
    generator = np.random.default_rng(count)
    return [
        Point(
            label=f"{label} {number}",
            x=float(generator.uniform(100, 1500)),
            y=float(y := generator.uniform(0.1, 0.3)),
            interval=(y - 0.05, y + 0.05),
            tone=number % 6,
            shape=number % 5,
        )
        for number in range(count)
    ]


def drawn(chosen: list[Point], width: int = 540) -> ET.Element:
    return ET.fromstring(score_chart(chosen, score="pass@1", amount="Size, MB", width=width, key="k", class_="chart"))


@pytest.mark.parametrize("width", [340, 540])
@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_a_chart_is_well_formed_and_names_every_run(count: int, width: int) -> None:
    chosen = points(count)
    root = drawn(chosen, width)
    assert root.tag == f"{NAMESPACE}svg"
    assert root.findtext(f"{NAMESPACE}title") == "pass@1 against Size, MB"
    description = root.findtext(f"{NAMESPACE}desc") or ""
    assert all(point.label in description for point in chosen)
    labels = [text for text in root.iter(f"{NAMESPACE}text") if text.get("class") == "label"]
    assert len(labels) == count
    assert {root.get("aria-labelledby")} == {"k-title k-desc"}


def test_everything_drawn_is_inside_of_the_drawing() -> None:
    root = drawn(points(8))
    for node in root.iter():
        for name, end in (("x", 540), ("x1", 540), ("x2", 540), ("cx", 540), ("y", 300), ("y1", 300), ("cy", 300)):
            value = node.get(name)
            assert value is None or 0 <= float(value) <= end, (node.tag, name, value)


def test_points_that_would_cover_one_another_stand_side_by_side() -> None:
    one, other = (Point(label=name, x=380.0, y=0.3, interval=None, tone=0, shape=0) for name in "ab")
    circles = [float(node.get("cx", "0")) for node in drawn([one, other]).iter(f"{NAMESPACE}circle")]
    assert abs(circles[0] - circles[1]) >= 10


def test_a_label_cannot_leave_the_drawing_or_end_it() -> None:
    root = drawn(points(2, label='</svg></title><script>alert(1)</script>"' + "long " * 50))
    assert not list(root.iter(f"{NAMESPACE}script"))
    assert all(len(text.text or "") < 60 for text in root.iter(f"{NAMESPACE}text"))


@given(st.lists(st.tuples(st.floats(60, 500), st.floats(30, 240)), min_size=1, max_size=8))
def test_labels_cover_neither_points_nor_one_another(places: list[tuple[float, float]]) -> None:
    taken = [Box(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    bounds = Box(50, 2, 538, 252)
    texts = ["int8-dynamic cpu"] * len(places)
    placed = [label for label in place_labels(texts, places, markers=taken, lines=[], bounds=bounds) if label]
    for one, other in itertools.combinations([label.box for label in placed], 2):
        assert not one.overlaps(other)
    assert not any(label.box.overlaps(box) for label in placed for box in taken)
    assert all(bounds.holds(label.box) for label in placed)


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_score_axis_holds_its_values_and_stays_between_0_and_1(one: float, other: float) -> None:
    axis = score_axis([one, other])
    assert 0 <= axis.low <= min(one, other)
    assert max(one, other) <= axis.high <= 1
    _check(axis)


@given(st.floats(0.01, 1e5), st.floats(0.01, 1e5))
def test_an_amount_axis_holds_its_values(one: float, other: float) -> None:
    axis = amount_axis([one, other])
    assert axis.low <= min(one, other)
    assert max(one, other) <= axis.high
    assert axis.is_log == (max(one, other) / min(one, other) >= 8)
    _check(axis)


def _check(axis: Axis) -> None:
    assert 1 <= len(axis.ticks) <= 12
    assert list(axis.ticks) == sorted(set(axis.ticks))
    assert all(-1e-6 <= axis.share(tick) <= 1 + 1e-6 for tick in axis.ticks)


def test_scores_of_little_difference_do_not_start_at_0() -> None:
    assert score_axis([0.91, 0.95]).low > 0.8
    assert score_axis([0.1, 0.35]).low == 0


def test_bars_are_divided_by_kind() -> None:
    kinds = {"passed": 50, "assertion": 30, "exit": 15, "<odd>": 5}
    root = ET.fromstring(kinds_chart([Bar(label="int8 cpu", kinds=kinds)], width=600, key="k", class_="bars"))
    pieces = [node for node in root.iter(f"{NAMESPACE}rect") if (node.get("class") or "").startswith("piece")]
    assert [float(piece.get("width", "0")) for piece in pieces] == [300, 180, 90, 30]
    titles = [node.findtext(f"{NAMESPACE}title") for node in root.iter(f"{NAMESPACE}g")]
    assert titles[0] == "passed: 50 of 100 (50.0%)"
    assert titles[-1] == "<odd>: 5 of 100 (5.0%)"
    hatched = [node for node in root.iter(f"{NAMESPACE}rect") if node.get("fill") == "url(#k-hatch)"]
    assert len(hatched) == 2  # exit shares its colour with exception; what is unknown is hatched as well
    assert "int8 cpu: passed 50.0%, assertion 30.0%" in (root.findtext(f"{NAMESPACE}desc") or "")


def test_every_kind_of_the_sandbox_is_drawn_in_order() -> None:
    assert {str(kind) for kind in FailureKind} <= set(KINDS)
