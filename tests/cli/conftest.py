"""The commands are tested on less calibration text than they take by themselves; `make demo` takes all of it."""

from __future__ import annotations

import pytest

from tests.cli.running import Done, Run, run_main


@pytest.fixture(autouse=True)
def short_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of the text that ships at most: a matter of time only."""
    monkeypatch.setattr("codegen_edge.quantization.calibration._MOST_TOKENS", 16_384)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process."""

    def run_command(*arguments: object) -> Done:
        return run_main(monkeypatch, capsys, *arguments)

    return run_command
