"""Rows R04–R06 and R08: what is left of memory, descriptors and threads after many generations."""

from __future__ import annotations

import gc
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from codegen_edge import load_model
from codegen_edge.bundle import Bundle
from codegen_edge.errors import CancelledError
from codegen_edge.generation import CancelToken
from codegen_edge.generation.model import Model
from tests.fuzz.children import in_child

PROMPT = "def hello_world():\n    print("
MOST_GROWTH_BYTES = 1 << 20  # per 100 generations, once all that is kept is there
WARM_UP = 40


@pytest.fixture(scope="module")
def model(tiny_bundle: Bundle) -> Iterator[Model]:
    with load_model(tiny_bundle.path, threads=1) as opened:
        yield opened


def resident_bytes() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def num_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def cancelled(model: Model, after: int) -> None:
    """A generation that is cancelled after some events."""
    token = CancelToken()
    stream = model.stream(PROMPT, max_new_tokens=32, min_new_tokens=32, cancel=token)
    with pytest.raises(CancelledError):
        for number, _ in enumerate(stream):
            if number == after:
                token.cancel()


def growth_of_generations(model: Model, count: int) -> float:
    for _ in range(WARM_UP):
        model.generate(PROMPT, max_new_tokens=8)
    before = resident_bytes()
    for _ in range(count):
        model.generate(PROMPT, max_new_tokens=8)
    return (resident_bytes() - before) * 100 / count


def test_R04_memory_stays_level_over_generations(model: Model) -> None:
    assert growth_of_generations(model, 100) < MOST_GROWTH_BYTES


@pytest.mark.long
def test_R04_memory_stays_level_over_10000_generations(model: Model) -> None:
    assert growth_of_generations(model, 10_000) < MOST_GROWTH_BYTES / 10


def test_R05_opened_and_closed_models_leave_nothing(tiny_bundle: Bundle) -> None:
    def opened(times: int) -> None:
        for _ in range(times):
            load_model(tiny_bundle.path, threads=1, check="size").close()

    opened(5)
    descriptors, threads, before = num_descriptors(), threading.active_count(), resident_bytes()
    opened(20)
    assert abs(num_descriptors() - descriptors) <= 2
    assert threading.active_count() == threads
    assert resident_bytes() - before < 8 << 20


def test_R06_cancelled_generations_leave_nothing(model: Model) -> None:
    for after in range(10):
        cancelled(model, after)
    descriptors, threads, before = num_descriptors(), threading.active_count(), resident_bytes()
    for number in range(60):
        cancelled(model, number % 10)
    assert num_descriptors() == descriptors
    assert threading.active_count() == threads
    assert resident_bytes() - before < 2 << 20
    assert model.generate(PROMPT, max_new_tokens=4).token_ids


@pytest.mark.long
def test_R06_1000_cancelled_generations_leave_nothing(model: Model) -> None:
    for after in range(20):
        cancelled(model, after % 10)
    before = resident_bytes()
    for number in range(1000):
        cancelled(model, number % 10)
    assert resident_bytes() - before < 4 << 20


@pytest.mark.parametrize("most", [6, 16])
def test_R08_few_descriptors_are_enough_or_one_line(most: int, tiny_bundle: Bundle) -> None:
    def generated() -> str:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        with load_model(tiny_bundle.path, threads=1) as opened:
            return opened.generate(PROMPT, max_new_tokens=2).text

    ended = in_child(generated, seconds=60)
    assert ended.outcome in ("done", "error", "system error"), ended
