"""Rows R02, R03, G08, G22 and G23: memory that is not there, ids that are none, logits that fit nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from codegen_edge.bundle import Bundle
from codegen_edge.errors import BackendError, InvalidInputError
from codegen_edge.generation.loop import GenerationLoop
from codegen_edge.generation.params import GenerationParams
from codegen_edge.runtimes import open_runtime
from codegen_edge.runtimes.backends.kv_buffers import KVBuffers
from codegen_edge.runtimes.backends.scripted import ScriptedRuntime
from codegen_edge.runtimes.devices import HOST, HostArray


@pytest.mark.parametrize("shape", [(1, 4, 2**40, 2**10), (2**30, 2**30, 2**30, 2**30)])
def test_R02_buffers_that_do_not_fit_are_an_error_of_ours(shape: tuple[int, int, int, int]) -> None:
    with pytest.raises(BackendError, match="no memory for an array of"):
        HOST.zeros(shape, np.float32)


def test_R02_cache_that_does_not_fit_is_an_error_of_ours(tiny_bundle: Bundle) -> None:
    runtime = open_runtime("cpu", tiny_bundle)
    with pytest.raises(BackendError, match="no memory for an array of"):
        runtime.new_cache(2**45, 128)
    cache = runtime.new_cache(1, 8)
    assert runtime.step(np.array([[1]], np.int64), cache).shape == (1, runtime.config.vocab_size)
    runtime.close()


def out_of_memory(*arguments: Any, **options: Any) -> Any:
    raise MemoryError


@pytest.mark.parametrize("grow", ["join", "select", "reserve"])
def test_R03_cache_that_cannot_grow_stays_what_it_was(
    grow: str, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = open_runtime("cpu", tiny_bundle)
    cache, other = runtime.new_cache(1, 16), runtime.new_cache(1, 16)
    ids = np.array([[1, 2, 3]], np.int64)
    expected = runtime.step(ids, cache)
    runtime.step(ids, other)
    before = cache.read_row(0)
    with monkeypatch.context() as patched:
        patched.setattr(np, "zeros", out_of_memory)
        with pytest.raises(BackendError, match="no memory for an array of"):
            {
                "join": lambda: cache.join(other),
                "select": lambda: cache.select([0, 0]),
                "reserve": lambda: cache.reserve(3),
            }[grow]()
    assert isinstance(cache, KVBuffers)
    assert cache.buffer_shape[0] == 1
    assert cache.lengths.tolist() == [3]
    assert all(np.array_equal(values, before[name]) for name, values in cache.read_row(0).items())
    assert np.array_equal(runtime.step(ids, runtime.new_cache(1, 16)), expected)
    runtime.close()


class Full:
    """An array's values in memory that holds no copy of them."""

    dtype = np.dtype(np.float32)
    shape = (1, 4, 8, 16)

    def __getitem__(self, place: object) -> Full:
        return self

    def copy(self) -> None:
        raise MemoryError


@pytest.mark.parametrize("copy", [lambda array: array.read(), lambda array: array.take(0, 0, 1)])
def test_R03_copy_that_does_not_fit_is_an_error_of_ours(copy: Any) -> None:
    with pytest.raises(BackendError, match="no memory for an array of"):
        copy(HostArray(Full()))  # type: ignore[arg-type]


def runtime_of(shape: Any, vocab_size: int = 64) -> ScriptedRuntime:
    """A runtime whose logits have another shape than was asked for."""
    runtime = ScriptedRuntime(lambda ids: np.zeros(vocab_size, np.float32), vocab_size=vocab_size)
    step = runtime.step

    def reshaped(*arguments: Any, **options: Any) -> Any:
        return shape(step(*arguments, **options))

    runtime.step = reshaped  # type: ignore[method-assign]
    return runtime


@pytest.mark.parametrize(
    "shape",
    [
        lambda logits: logits[:, :5],
        lambda logits: logits[0],
        lambda logits: logits[None],
        lambda logits: np.concatenate([logits, logits]),
        lambda logits: np.zeros((0, 64), np.float32),
        lambda logits: logits.tolist(),
        lambda logits: None,
    ],
)
def test_G23_logits_of_another_shape_are_refused(shape: Any) -> None:
    loop = GenerationLoop(runtime_of(shape), [[1, 2]], GenerationParams(max_new_tokens=4))
    with pytest.raises(BackendError, match=r"runtime scripted gave logits of shape .*\(1, 64\) were asked for"):
        list(loop)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ([True], "no token id"),
        ([1, False], "no token id"),
        ([np.True_], "no token id"),
        ([1.0], "no token id"),
        ([None], "no token id"),
        (b"ab", "must be a list of token ids, got bytes"),
        (bytearray(b"ab"), "must be a list of token ids, got bytearray"),
        ("ab", "must be a list of token ids, got str"),
        (None, "must be a list of token ids, got NoneType"),
        (7, "must be a list of token ids, got int"),
        ({1: 2}, "must be a list of token ids, got dict"),
        ([-1], "outside the vocabulary"),
    ],
)
def test_G08_what_is_no_list_of_ids_is_refused(prompt: Any, words: str) -> None:
    runtime = ScriptedRuntime(lambda ids: np.zeros(64, np.float32), vocab_size=64)
    with pytest.raises(InvalidInputError, match=words):
        GenerationLoop(runtime, [prompt], GenerationParams(max_new_tokens=1))


@pytest.mark.parametrize("prompt", [[1, 2], (1, 2), np.array([1, 2]), [np.int64(1)], range(1, 3)])
def test_G08_every_sequence_of_ids_is_taken(prompt: Any) -> None:
    runtime = ScriptedRuntime(lambda ids: np.zeros(64, np.float32), vocab_size=64)
    assert len(list(GenerationLoop(runtime, [prompt], GenerationParams(max_new_tokens=1)))) == 1
