from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from codegen_edge.bundle import open_bundle
from codegen_edge.cli import cli
from codegen_edge.errors import StorageError


def test_goes_the_whole_way_in_an_empty_folder_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = CliRunner().invoke(cli, ["demo"], catch_exceptions=False)
    assert outcome.exit_code == 0
    shown = [line for line in outcome.stderr.splitlines() if line.startswith("$ codegen-edge")]
    assert [line.split()[2] for line in shown] == ["export", "quantize", "quantize", *["generate"] * 3]
    rows = [line.split() for line in outcome.stdout.splitlines() if line.split()[:1] in (["fp32"], ["int8"], ["int4"])]
    assert len(rows) == 3
    assert all(float(row[-1]) > 0 for row in rows)
    precisions = [open_bundle(tmp_path / "codegen-edge-demo" / row[0]).manifest.precision for row in rows]
    assert precisions == ["fp32", "int8", "int4"]


def test_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    outcome = CliRunner().invoke(cli, ["demo", str(tmp_path / "file" / "demo")])
    assert isinstance(outcome.exception, StorageError)
