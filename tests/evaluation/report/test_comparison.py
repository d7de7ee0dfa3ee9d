"""Paired comparisons of runs, and how they are put into words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from codegen_edge.evaluation.report.comparison import Comparison, compared, shown_p, shown_points
from codegen_edge.evaluation.report.folders import read_runs
from codegen_edge.evaluation.tasks.scores import mcnemar
from tests.evaluation.report.synthetic import make_folder


def comparison_of(tmp_path: Path, first: list[float], second: list[float], **options: Any) -> Comparison:
    """Of two runs whose problems pass with chance 0 or 1."""
    folders = [
        make_folder(tmp_path / "a", num_problems=len(first), chances=first, **options),
        make_folder(tmp_path / "b", num_problems=len(second), chances=second, precision="int4", **options),
    ]
    (comparison,) = compared(read_runs(folders))
    return comparison


def test_a_difference_beyond_the_noise_is_named(tmp_path: Path) -> None:
    one = comparison_of(tmp_path, [1.0] * 30 + [0.0] * 10, [0.0] * 12 + [1.0] * 19 + [0.0] * 9)
    assert (one.only_first, one.only_second) == (12, 1)
    assert one.p_value == mcnemar(12, 1) < 0.05
    assert one.difference == pytest.approx(-11 / 40)
    assert one.interval is not None
    assert one.interval[0] < one.difference < one.interval[1] < 0
    assert one.verdict == "fp32 cpu is better than int4 cpu"
    assert one.sentence == (
        "humaneval, int4 cpu against fp32 cpu: fp32 cpu is better than int4 cpu (−27.5 percentage points, 95% interval "
        f"[{shown_points(one.interval[0])}, {shown_points(one.interval[1])}], over 40 problems; 12 passed only by "
        "fp32 cpu, 1 only by int4 cpu; McNemar's exact p: 0.003)."
    )


def test_a_difference_inside_the_noise_is_no_difference(tmp_path: Path) -> None:
    one = comparison_of(tmp_path, [1.0, 0.0] * 10, [1.0, 0.0] * 9 + [0.0, 0.0])
    assert one.difference < 0
    assert not one.is_difference
    assert one.verdict == "no difference"
    assert ": no difference (−5.0 percentage points" in one.sentence


def test_mcnemar_has_a_say_where_there_is_one_sample_per_problem(tmp_path: Path) -> None:
    """Five against none: the interval leaves out 0, the exact test says 0.0625."""
    one = comparison_of(tmp_path, [1.0] * 5 + [0.0] * 15, [0.0] * 20)
    assert one.interval is not None
    assert one.interval[1] < 0
    assert one.p_value == 0.0625
    assert one.verdict == "no difference"


def test_equal_runs_do_not_differ(tmp_path: Path) -> None:
    one = comparison_of(tmp_path, [1.0, 0.0, 1.0], [1.0, 0.0, 1.0])
    assert (one.difference, one.p_value, one.verdict) == (0.0, 1.0, "no difference")
    assert "(0.0 percentage points" in one.sentence


def test_several_samples_are_compared_by_their_shares(tmp_path: Path) -> None:
    one = comparison_of(tmp_path, [0.9] * 20, [0.3] * 20, num_samples=10)
    assert not one.is_single
    assert one.is_difference
    assert "McNemar" not in one.sentence


def test_cases_of_a_problem_of_mtpb_count_together(tmp_path: Path) -> None:
    """Five cases each of four problems: what one problem alone decides is no difference."""
    folders = [
        make_folder(tmp_path / "a", task="mtpb", num_problems=20, chances=[1.0] * 5 + [0.0] * 15),
        make_folder(tmp_path / "b", task="mtpb", num_problems=20, chances=0.0, precision="int4"),
    ]
    for folder in folders:
        for name in ("samples.jsonl", "verdicts.jsonl", "problems.jsonl", "results.json"):
            text = (folder / name).read_text()
            (folder / name).write_text(re.sub(r'"(\d+)/0"', lambda m: f'"{int(m[1]) // 5}/{int(m[1]) % 5}"', text))
    (one,) = compared(read_runs(folders))
    assert (one.num_problems, one.only_first, one.first_rate, one.second_rate) == (4, 5, 0.25, 0.0)
    assert not one.is_single
    assert one.verdict == "no difference"


def test_runs_over_different_problems_are_compared_over_those_of_both(tmp_path: Path) -> None:
    one = comparison_of(tmp_path, [1.0] * 6, [0.0] * 4)
    assert (one.num_problems, one.num_left_out) == (4, 2)
    assert "over 4 problems, without 2 that only one ran" in one.sentence


def test_settings_that_differ_are_named(tmp_path: Path) -> None:
    folders = [
        make_folder(tmp_path / "a", configuration={"sampling": {"temperature": 0.2}, "threads": 2}),
        make_folder(tmp_path / "b", precision="int8", configuration={"sampling": {"temperature": 0.8}, "threads": 4}),
    ]
    (one,) = compared(read_runs(folders))
    assert one.settings == ("sampling.temperature",)
    assert one.sentence.endswith("The settings differ as well: sampling.temperature.")


def test_what_cannot_be_compared_is_left_out(tmp_path: Path) -> None:
    folders = [
        make_folder(tmp_path / "a"),
        make_folder(tmp_path / "b", task="mtpb"),
        make_folder(tmp_path / "c", precision="int8", finished_problems=3),
    ]
    assert compared(read_runs(folders)) == []


def test_figures_are_as_precise_as_they_are_of_use() -> None:
    assert [shown_points(value) for value in (0.0123, -0.5, 0.0, -0.0001)] == ["+1.2", "−50.0", "0.0", "0.0"]
    assert [shown_p(value) for value in (1.0, 0.0371, 1e-9)] == ["1.000", "0.037", "below 0.001"]
