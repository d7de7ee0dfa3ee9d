"""Rows R01 and R02: memory that does not suffice is one error of ours, and nothing is lost."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codegen_edge import open_bundle
from codegen_edge.bundle import Bundle
from codegen_edge.bundle.writer import write_bundle
from codegen_edge.errors import StorageError
from codegen_edge.exporter import ExportOptions, export_checkpoint, locate_checkpoint
from codegen_edge.quantization import QuantizeOptions, quantize_bundle
from tests.fuzz.children import in_child

PATIENCE_SECONDS = 60.0
# Beside what a process has already: too little for the work, and for some of them enough to begin it.
LIMITS_BYTES = (1 << 20, 4 << 20, 16 << 20)
ABUNDANT_BYTES = 8 << 30


def out_of_memory(*_: Any, **__: Any) -> Any:
    return np.empty(1 << 60, np.uint8)


def torch_out_of_memory(*_: Any, **__: Any) -> Any:
    import torch

    return torch.empty(1 << 56, dtype=torch.uint8)


def test_R01_export_without_memory_is_one_line_and_keeps_the_old_bundle(
    bundle_copy: Bundle, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codegen_edge.exporter.export.build_graph", out_of_memory)
    located, options = locate_checkpoint(str(tiny_checkpoint)), ExportOptions(overwrite=True)
    with pytest.raises(StorageError, match=r"not enough memory to make .*bundle; the old state is intact"):
        export_checkpoint(located, bundle_copy.path, options)
    assert open_bundle(bundle_copy.path).manifest == bundle_copy.manifest
    assert [each.name for each in bundle_copy.path.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("fail", [out_of_memory, torch_out_of_memory], ids=["numpy", "torch"])
def test_R01_memory_that_ends_while_a_bundle_is_written_is_one_line(fail: Any, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="not enough memory"), write_bundle(tmp_path / "out", overwrite=False):
        fail()
    assert not list(tmp_path.iterdir())


def test_R01_other_faults_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a fault"), write_bundle(tmp_path / "out", overwrite=False):
        raise RuntimeError("a fault")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("memory_bytes", [*LIMITS_BYTES, ABUNDANT_BYTES])
def test_R01_quantization_within_a_limit_of_memory_is_done_or_one_line(
    memory_bytes: int, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    from codegen_edge.bundle import graph_file  # noqa: F401  # what it imports is there before the limit is set

    out = shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    options = QuantizeOptions(scheme="int8", overwrite=True)

    def quantized() -> str:
        return quantize_bundle(tiny_bundle, out, options)[0].manifest.precision

    ended = in_child(quantized, seconds=PATIENCE_SECONDS, memory_bytes=memory_bytes)
    assert ended.outcome in ("done", "error"), ended
    assert ended.outcome == "done" or "memory" in ended.words, ended
    if memory_bytes == ABUNDANT_BYTES:
        assert ended.words == "int8"
    assert [each.name for each in tmp_path.iterdir()] == ["bundle"]
    expected = "int8" if ended.outcome == "done" else "fp32"
    assert open_bundle(out).manifest.precision == expected
