"""Progress where there is no terminal: a line now and then, and none for what is quickly done."""

from __future__ import annotations

import time

import pytest

from codegen_edge.cli import progress


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "_SECONDS_OF_A_LINE", 0.02)
    with progress.shown_progress("reading") as on_stage:
        for args in (("sensitivity of matrix 2 of 9", 0, None), ("weights", 3_000_000, 9_000_000)):
            on_stage(*args)
            time.sleep(0.2)
    with progress.shown_counts("opening") as on_stage:
        on_stage("executing", 3, 9)
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    for line in ("sensitivity of matrix 2 of 9 …", "weights: 3 of 9 MB", "executing: 3 of 9"):
        assert line in lines


def test_what_is_quickly_done_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.shown_progress("reading") as on_stage:
        on_stage("weights", 1, 2)
    assert capsys.readouterr().err == ""
