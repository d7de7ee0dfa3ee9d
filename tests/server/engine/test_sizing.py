"""How many slots fit into memory, and what is said where they do not."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_edge.bundle import Bundle
from codegen_edge.bundle.manifest import Manifest, Source
from codegen_edge.bundle.model_config import ModelConfig
from codegen_edge.errors import InvalidInputError
from codegen_edge.runtimes import open_runtime
from codegen_edge.server.engine import sizing
from codegen_edge.server.engine.sizing import bytes_per_token, free_memory, plan_memory

GIB = 2**30
# As of CodeGen-350M: 2 * 20 layers * 16 heads * 64 * 4 bytes.
MODEL = ModelConfig(
    vocab_size=51200,
    context_length=2047,
    num_layers=20,
    num_heads=16,
    head_dim=64,
    rotary_dim=32,
    inner_size=4096,
    eos_token_id=50256,
)
MANIFEST = Manifest(
    task="text-generation",
    target="ort",
    precision="fp32",
    model=MODEL,
    source=Source(name="codegen", revision=None, sha256="0", weights_dtype="float16"),
    tools={},
    files={},
)
PER_TOKEN = 163_840
PER_SLOT = PER_TOKEN * 2048  # 0.3125 GiB


def bundle(**fields: object) -> Bundle:
    return cast(Bundle, SimpleNamespace(manifest=replace(MANIFEST, **fields)))  # type: ignore[arg-type]


def test_bytes_of_a_token_follow_from_the_cache() -> None:
    assert bytes_per_token(bundle()) == PER_TOKEN
    assert bytes_per_token(bundle(compute="fp16")) == PER_TOKEN // 2
    assert bytes_per_token(bundle(compute="bf16")) == PER_TOKEN // 2
    assert bytes_per_token(bundle(kv_cache="int8")) == PER_TOKEN // 4
    assert bytes_per_token(bundle(kv_cache="int8", compute="fp16")) == PER_TOKEN // 4


def test_bytes_of_a_token_are_those_that_a_runtime_keeps(tiny_bundle: Bundle) -> None:
    runtime = open_runtime("cpu", tiny_bundle)
    cache = runtime.new_cache(1, 64)
    runtime.step(np.array([[1, 2, 3]], np.int64), cache)
    assert sum(tensor.nbytes for tensor in cache.read_row(0).values()) == 3 * bytes_per_token(tiny_bundle)
    runtime.close()


def test_plan_counts_a_full_context_of_every_slot() -> None:
    memory = plan_memory(bundle(), 4, GIB // 2, 10 * GIB)
    assert (memory.slots, memory.bytes_per_slot, memory.prefix_bytes) == (4, PER_SLOT, GIB // 2)
    assert memory.arithmetic == "4 slots x 0.31 GiB + 0.50 GiB of prefixes = 1.75 GiB of 10.00 GiB free"
    assert plan_memory(bundle(kv_cache="int8"), 4, 0, None).arithmetic == (
        "4 slots x 0.08 GiB + 0.00 GiB of prefixes = 0.31 GiB"
    )


@pytest.mark.parametrize(
    ("free_gib", "prefix_gib", "slots"),
    [(100, 0, 8), (100, 60, 8), (2, 0, 4), (2, 0.5, 2), (0.9, 0, 2), (0.4, 0, 1), (0.32, 0, 1), (1, 0.65, 1)],
)
def test_as_many_slots_as_fit_are_taken_where_none_are_given(free_gib: float, prefix_gib: float, slots: int) -> None:
    assert plan_memory(bundle(), None, int(prefix_gib * GIB), int(free_gib * GIB)).slots == slots


def test_what_does_not_fit_is_refused_with_the_arithmetic() -> None:
    exact = 4 * PER_SLOT + 1000
    assert plan_memory(bundle(), 4, 1000, exact).slots == 4
    with pytest.raises(InvalidInputError, match="the slots do not fit: 4 slots x 0.31 GiB") as refused:
        plan_memory(bundle(), 4, 1000, exact - 1)
    assert "1.25 GiB of 1.25 GiB free; take fewer, or less for prefixes" in str(refused.value)
    with pytest.raises(InvalidInputError, match="1 slots x 0.31 GiB .* of 0.29 GiB free"):
        plan_memory(bundle(), None, 0, int(0.29 * GIB))
    with pytest.raises(InvalidInputError, match="1.00 GiB of prefixes"):
        plan_memory(bundle(), None, GIB, GIB)


def test_number_of_slots_is_checked_and_must_be_given_where_memory_is_unknown() -> None:
    for slots in (0, -1):
        with pytest.raises(InvalidInputError, match=f"slots must be at least 1, got {slots}"):
            plan_memory(bundle(), slots, 0, GIB)
    with pytest.raises(InvalidInputError, match="give the number of slots"):
        plan_memory(bundle(), None, 0, None)
    assert plan_memory(bundle(), 100, 0, None).free_bytes is None


@given(st.one_of(st.none(), st.integers(1, 20)), st.integers(0, 4 * GIB), st.integers(0, 20 * GIB))
def test_plan_fits_or_is_refused(slots: int | None, prefix_bytes: int, free_bytes: int) -> None:
    least = (slots or 1) * PER_SLOT + prefix_bytes
    if least > free_bytes:
        with pytest.raises(InvalidInputError, match="the slots do not fit"):
            plan_memory(bundle(), slots, prefix_bytes, free_bytes)
        return
    memory = plan_memory(bundle(), slots, prefix_bytes, free_bytes)
    assert memory.slots * memory.bytes_per_slot + prefix_bytes <= free_bytes
    assert memory.slots == slots or (slots is None and 1 <= memory.slots <= 8)


class FakePath:
    """Files of the system that the memory is read from."""

    files: dict[str, str]

    def __init__(self, *parts: str) -> None:
        self._path = "/".join(parts)

    def __truediv__(self, name: str) -> FakePath:
        return type(self)(self._path, name)

    def is_file(self) -> bool:
        return self._path in self.files

    def read_text(self) -> str:
        if self._path not in self.files:
            raise FileNotFoundError(self._path)
        return self.files[self._path]


@pytest.mark.parametrize(
    ("group", "free"),
    [
        ({}, 4_000 * 1024),
        ({"memory.max": "max\n", "memory.current": "1000\n"}, 4_000 * 1024),
        ({"memory.max": "2000000\n", "memory.current": "500000\n"}, 1_500_000),
        ({"memory.max": "2000000\n", "memory.current": "2500000\n"}, 0),
        ({"memory.max": "99000000\n", "memory.current": "500000\n"}, 4_000 * 1024),
    ],
    ids=["no group", "no limit", "limited", "used up", "limit above the machine"],
)
def test_free_memory_is_the_lesser_of_the_machines_and_the_groups(
    group: dict[str, str], free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    meminfo = "MemTotal:        8000 kB\nMemFree:          100 kB\nMemAvailable:    4000 kB\n"
    files = {"/proc/meminfo": meminfo, **{f"/sys/fs/cgroup/{name}": text for name, text in group.items()}}
    monkeypatch.setattr(FakePath, "files", files, raising=False)
    monkeypatch.setattr(sizing, "Path", FakePath)
    assert free_memory() == free


@pytest.mark.parametrize("files", [{}, {"/proc/meminfo": "MemTotal: 8000 kB\n"}], ids=["no file", "an old system"])
def test_free_memory_that_cannot_be_told_is_none(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakePath, "files", files, raising=False)
    monkeypatch.setattr(sizing, "Path", FakePath)
    assert free_memory() is None
