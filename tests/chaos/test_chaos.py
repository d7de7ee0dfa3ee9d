"""Points are where they should be; the long test tries faults at many of them."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from codegen_edge.bundle import Bundle
from codegen_edge.bundle.storage import replace_file
from tests.chaos.__main__ import tallies
from tests.chaos.points import error_at, nothing, watched


def test_points_of_a_file_that_is_replaced(tmp_path: Path) -> None:
    with watched(nothing) as names:
        replace_file(tmp_path / "file", b"content")
    assert names == ["open", "write", "fsync", "replace", "fsync", "unlink"]
    assert (tmp_path / "file").read_bytes() == b"content"


def test_nothing_is_watched_afterwards(tmp_path: Path) -> None:
    with watched(error_at(0, errno.EIO)) as names, pytest.raises(OSError, match="Input/output"):
        (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"x")
    assert names == ["open"]


@pytest.mark.long
def test_faults_at_many_points_lose_nothing(tiny_bundle: Bundle, tmp_path: Path) -> None:
    for tally in tallies(tiny_bundle, tmp_path, step=9, loads=30):
        assert not tally.failures, (tally.scenario, tally.fault)
        assert tally.counts
