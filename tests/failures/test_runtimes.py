"""Rows B06, B18, G01 and R10: runtimes that fail, are closed beneath a step, or are used in a fork."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from codegen_edge import load_model
from codegen_edge.bundle import Bundle
from codegen_edge.errors import BackendError, CodegenEdgeError, ContextLengthError
from codegen_edge.generation.model import Model
from codegen_edge.runtimes import open_runtime
from tests.fuzz.children import in_child

ONE = np.array([[5]], np.int64)
PATIENCE_SECONDS = 60.0
CONTEXT = 128  # of the tiny checkpoint


@pytest.fixture(scope="module")
def model(tiny_bundle: Bundle) -> Iterator[Model]:
    with load_model(tiny_bundle.path, threads=1) as opened:
        yield opened


class FailingProvider:
    """A session whose provider fails in every run, and that tells of attempts to change providers."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.told: list[str] = []

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        """As onnxruntime does it: its EPFail, in several lines."""
        from onnxruntime.capi.onnxruntime_pybind11_state import EPFail

        raise EPFail("[ONNXRuntimeError] : 11 : EP_FAIL :\n CUDA failure 700")

    def set_providers(self, *providers: Any) -> None:
        """What onnxruntime's own fallback would call."""
        self.told.append(f"set_providers {providers}")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def test_B06_provider_that_fails_is_an_error_and_nothing_falls_back(tiny_bundle: Bundle) -> None:
    runtime: Any = open_runtime("cpu", tiny_bundle, threads=1)
    sound = runtime._session
    failing = FailingProvider(sound)
    cache = runtime.new_cache(1, 8)
    cache.binding = lambda session, rows: type(cache).binding(cache, sound, rows)
    runtime._session = failing
    with pytest.raises(BackendError, match=r"onnxruntime failed in a step of 1x\d+ tokens: .*EP_FAIL : CUDA failure"):
        runtime.step(ONE, cache)
    assert failing.told == []
    assert list(cache.lengths) == [0]
    runtime._session = sound
    assert runtime.step(ONE, cache).shape == (1, runtime.config.vocab_size)
    runtime.close()


def steps_until_closed(runtime: Any, began: threading.Event, messages: list[str]) -> None:
    cache = runtime.new_cache(1, CONTEXT)
    try:
        for _ in range(CONTEXT):
            runtime.step(ONE, cache)
            began.set()
    except CodegenEdgeError as exc:
        messages.append(str(exc))


@pytest.mark.parametrize("exact_steps", [False, True], ids=["plain", "exact"])
def test_B18_runtime_that_is_closed_beneath_a_step_says_so(exact_steps: bool, tiny_bundle: Bundle) -> None:
    for _ in range(5):
        runtime = open_runtime("cpu", tiny_bundle, threads=1, exact_steps=exact_steps)
        messages: list[str] = []
        began = threading.Event()
        thread = threading.Thread(target=steps_until_closed, args=(runtime, began, messages))
        thread.start()
        began.wait()
        runtime.close()
        thread.join()
        assert messages in ([], ["the cpu runtime was closed"])


@pytest.mark.parametrize("exact_steps", [False, True], ids=["plain", "exact"])
def test_R10_runtime_of_another_process_is_refused_in_a_fork(exact_steps: bool, tiny_bundle: Bundle) -> None:
    runtime = open_runtime("cpu", tiny_bundle, threads=2, exact_steps=exact_steps)

    def stepped() -> str:
        runtime.step(ONE, runtime.new_cache(1, 8))
        return ""

    ended = in_child(stepped, seconds=PATIENCE_SECONDS)
    assert ended.outcome == "error", ended
    assert "of which this one is a fork" in ended.words

    def opened_anew() -> str:
        anew = open_runtime("cpu", tiny_bundle, threads=2, exact_steps=exact_steps)
        return str(anew.step(ONE, anew.new_cache(1, 8)).shape)

    ended = in_child(opened_anew, seconds=PATIENCE_SECONDS)
    assert ended.words == str((1, runtime.config.vocab_size)), ended
    runtime.step(ONE, runtime.new_cache(1, 8))  # the parent goes on
    runtime.close()


@pytest.mark.parametrize("count", [CONTEXT - 2, CONTEXT - 1])
def test_G01_prompt_that_leaves_room_for_a_token_is_read(count: int, model: Model) -> None:
    completion = model.generate([5] * count, max_new_tokens=1)
    assert len(completion.token_ids) == 1


@pytest.mark.parametrize("count", [CONTEXT, CONTEXT + 1, 10**6])
def test_G01_longer_prompt_is_refused_with_both_numbers(count: int, model: Model) -> None:
    with pytest.raises(ContextLengthError) as refused:
        model.generate([5] * count, max_new_tokens=1)
    assert str(count) in str(refused.value).replace(",", "")
    assert str(CONTEXT) in str(refused.value)
    assert model.generate([5] * 3, max_new_tokens=1).token_ids
