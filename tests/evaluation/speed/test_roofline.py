from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codegen_edge.evaluation.speed import roofline, surroundings
from codegen_edge.evaluation.speed.kinds import BY_ROW, FASTEST, FLOAT, ProductKind

KINDS = (
    FLOAT,
    BY_ROW,
    FASTEST,
    ProductKind(operator="MatMulNBits", bits=8, block_size=128, accuracy_level=4),
    ProductKind(operator="MatMulNBits", bits=4, block_size=32, accuracy_level=4),
    ProductKind(operator="MatMulNBits", bits=4, block_size=64),
)


def test_every_kind_of_product_and_both_ways_of_reading_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "_SECONDS", 0.0)
    monkeypatch.setattr(roofline, "_WIDTH", 256)
    monkeypatch.setattr(roofline, "buffer_bytes", lambda: 2**22)
    limits = roofline.measure_limits(KINDS, 1)
    assert limits.multiplications.keys() == {kind.label for kind in KINDS}
    assert limits.read_bytes.keys() == {"numpy", "onnxruntime"}
    assert all(
        np.isfinite(value) and value > 0 for value in (*limits.multiplications.values(), *limits.read_bytes.values())
    )


def test_labels_tell_kinds_apart() -> None:
    assert len({kind.label for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize(
    ("cache", "memory", "expected"),
    [
        (None, None, 256 * 2**20),
        (105 * 2**20, 24 * 2**30, 420 * 2**20),  # four times the cache
        (2**30, 2**40, 2**30),  # never more than a GiB
        (2**20, 2**30, 2**27),  # an eighth of a small memory
    ],
)
def test_what_is_read_does_not_fit_the_cache_but_the_memory(
    monkeypatch: pytest.MonkeyPatch, cache: int | None, memory: int | None, expected: int
) -> None:
    monkeypatch.setattr(roofline, "largest_cache_bytes", lambda: cache)
    monkeypatch.setattr(roofline, "memory_bytes", lambda: memory)
    assert roofline.buffer_bytes() == expected


def test_the_system_is_asked_for_its_cache_and_its_pressure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for index, size in enumerate(("48K", "2048K", "105M")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    monkeypatch.setattr(surroundings, "_CACHE_SIZES", tmp_path)
    assert surroundings.largest_cache_bytes() == 105 * 2**20
    pressure = tmp_path / "cpu"
    monkeypatch.setattr(surroundings, "_PRESSURE", pressure)
    assert surroundings.waited_us() is None
    pressure.write_text("some avg10=1.0 avg60=2.0 avg300=3.0 total=4567\nfull avg10=0 avg60=0 avg300=0 total=0\n")
    assert surroundings.waited_us() == 4567
    assert surroundings.LoadWatch().stop().waiting == 0
