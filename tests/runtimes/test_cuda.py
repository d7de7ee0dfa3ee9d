"""What of CUDA can be proved without a GPU: memory, over a stand-in of the driver's API; recorded decode; errors."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from codegen_edge.bundle import Bundle
from codegen_edge.cli import cli
from codegen_edge.dependencies import install_command
from codegen_edge.errors import BackendError, CancelledError, InvalidInputError, RuntimeUnavailableError
from codegen_edge.ort_session import load_cuda_provider, load_onnxruntime, open_device_session
from codegen_edge.runtimes import open_runtime
from codegen_edge.runtimes.backends.cuda import CudaGraphRuntime
from codegen_edge.runtimes.backends.kv_buffers import KVBuffers
from codegen_edge.runtimes.backends.scripted import ScriptedRuntime
from codegen_edge.runtimes.builders import build_half
from codegen_edge.runtimes.devices import Device, HostDevice
from codegen_edge.runtimes.devices import cuda as cuda_device
from codegen_edge.runtimes.devices.cuda import CudaDevice, list_gpus
from codegen_edge.workflows.diagnosis import diagnose

from .stand_ins import StreamingHost


class FakeCudart:
    """The part of NVIDIA's runtime API that is used, over memory of the host. Every copy is checked for its bounds."""

    def __init__(self, count: int = 1, error: str = "cudaSuccess", driver: int = 13000, room: int = 1 << 30) -> None:
        self.count, self.error, self.driver, self.room = count, error, driver, room
        self.allocations: dict[int, Any] = {}
        self.cudaMemcpyKind = SimpleNamespace(
            cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2, cudaMemcpyDeviceToDevice=3
        )

    def _result(self, *values: Any, error: str = "cudaSuccess") -> tuple[Any, ...]:
        return SimpleNamespace(name=error), *values

    def cudaGetDeviceCount(self) -> Any:
        return self._result(self.count, error=self.error)

    def cudaDriverGetVersion(self) -> Any:
        return self._result(self.driver)

    def cudaRuntimeGetVersion(self) -> Any:
        return self._result(13050)

    def cudaGetDeviceProperties(self, index: int) -> Any:
        return self._result(SimpleNamespace(name=b"NVIDIA L4", major=8, minor=9, totalGlobalMem=24 * 2**30))

    def cudaSetDevice(self, index: int) -> Any:
        return self._result()

    def cudaStreamCreate(self) -> Any:
        return self._result(77)

    def cudaStreamDestroy(self, stream: int) -> Any:
        return self._result()

    def cudaStreamSynchronize(self, stream: int) -> Any:
        assert stream == 77
        return self._result()

    def cudaGetLastError(self) -> Any:
        return self._result()

    def cudaGetErrorString(self, error: Any) -> Any:
        return self._result(b"an illegal memory access was encountered")

    def cudaMalloc(self, size: int) -> Any:
        if size > self.room:
            return self._result(None, error="cudaErrorMemoryAllocation")
        memory = ctypes.create_string_buffer(b"\xaa" * size, size)  # device memory is not cleared
        self.allocations[ctypes.addressof(memory)] = memory
        return self._result(ctypes.addressof(memory))

    def cudaFree(self, address: int) -> Any:
        del self.allocations[address]
        return self._result()

    def cudaMemsetAsync(self, address: int, value: int, size: int, stream: int) -> Any:
        self._check(address, size)
        ctypes.memset(address, value, size)
        return self._result()

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> Any:
        for address, is_on_device in ((target, kind != 2), (source, kind != 1)):
            if is_on_device:
                self._check(address, size)
        ctypes.memmove(target, source, size)
        return self._result()

    def cudaMemcpy2DAsync(
        self, target: int, to_pitch: int, source: int, pitch: int, width: int, height: int, kind: int, stream: int
    ) -> Any:
        assert width <= min(to_pitch, pitch)
        for line in range(height):
            self.cudaMemcpyAsync(target + line * to_pitch, source + line * pitch, width, kind, stream)
        return self._result()

    def _check(self, address: int, size: int) -> None:
        assert any(
            begin <= address and address + size <= begin + len(memory) for begin, memory in self.allocations.items()
        ), "out of bounds"


@pytest.fixture
def cudart(monkeypatch: pytest.MonkeyPatch) -> FakeCudart:
    fake = FakeCudart()
    monkeypatch.setattr(cuda_device, "load_cudart", lambda: fake)
    return fake


@pytest.fixture(params=["host", "cuda"])
def device(request: pytest.FixtureRequest, cudart: FakeCudart) -> Device:
    return HostDevice() if request.param == "host" else CudaDevice()


VALUES = np.arange(3 * 2 * 5 * 4, dtype=np.float32).reshape(3, 2, 5, 4)


def test_arrays_of_every_device_do_the_same(device: Device) -> None:
    array = device.zeros((3, 2, 5, 4), np.float32)
    assert not array.read().any()
    array.write(VALUES)
    np.testing.assert_array_equal(array.read(), VALUES)
    taken = array.take(1, 2, 5)
    assert taken.shape == (1, 2, 3, 4)
    np.testing.assert_array_equal(taken.read(), VALUES[1:2, :, 2:5])
    array.put(2, 1, taken)
    expected = VALUES.copy()
    expected[2, :, 1:4] = VALUES[1, :, 2:5]
    np.testing.assert_array_equal(array.read(), expected)
    some = array.rows(1, 3)
    np.testing.assert_array_equal(some.read(), expected[1:3])
    some.write(VALUES[:2])  # the same memory
    np.testing.assert_array_equal(array.read()[1:3], VALUES[:2])
    assert some.address == array.address + VALUES[0].nbytes
    nothing = array.take(0, 2, 2)
    array.put(0, 0, nothing)


def test_memory_is_freed_with_the_last_array_that_uses_it(cudart: FakeCudart) -> None:
    device = CudaDevice()
    array = device.zeros((3, 1, 5, 4), np.float16)
    some = array.rows(1, 2)
    del array
    gc.collect()
    device.free_released()
    assert len(cudart.allocations) == 1
    del some
    gc.collect()
    # A finalizer may run while a CUDA graph is recorded, which a free would break: it only notes the memory.
    assert len(cudart.allocations) == 1
    device.free_released()
    assert not cudart.allocations
    kept = device.zeros((1, 1, 1, 1), np.float16)
    del kept
    gc.collect()
    device.synchronize()
    assert not cudart.allocations  # whoever waits for the device frees what was noted


def test_full_device_frees_what_is_gone_before_it_gives_up(cudart: FakeCudart, monkeypatch: pytest.MonkeyPatch) -> None:
    malloc = cudart.cudaMalloc
    monkeypatch.setattr(cudart, "cudaMalloc", lambda size: malloc(size if not cudart.allocations else cudart.room + 1))
    device = CudaDevice()
    gone = device.empty((1, 1, 1, 1), np.float16)
    del gone
    gc.collect()
    assert device.empty((1, 1, 1, 1), np.float16).nbytes == 2


def test_nothing_is_allocated_while_another_thread_holds_the_lock(cudart: FakeCudart) -> None:
    """Recording a step holds it: an allocation of any thread would break the recording."""
    device, done = CudaDevice(), threading.Event()

    def allocate() -> None:
        device.zeros((1, 1, 1, 1), np.float16)
        done.set()

    with cuda_device.ALLOCATION_LOCK:
        thread = threading.Thread(target=allocate)
        thread.start()
        assert not done.wait(0.1)
        assert not cudart.allocations
    assert done.wait(5)
    thread.join()


def test_moving_rows_waits_for_the_device_once(cudart: FakeCudart, monkeypatch: pytest.MonkeyPatch) -> None:
    device = CudaDevice()
    config = ScriptedRuntime(lambda _: np.zeros(8, np.float32), vocab_size=8).config
    cache = KVBuffers(replace(config, num_layers=3), 4, 16, np.float32, device=device)
    cache.lengths[:] = 9
    waits: list[int] = []
    monkeypatch.setattr(device, "synchronize", lambda: waits.append(1))
    cache.select([3, 1, 2])
    assert len(waits) == 1


def test_full_device_is_told_with_what_to_do(cudart: FakeCudart) -> None:
    device = CudaDevice()
    cudart.room = 100
    with pytest.raises(BackendError, match="GPU 0 has no room for .* MiB more: give a smaller capacity"):
        device.zeros((1, 1, 1000, 1), np.float32)


def test_failing_call_is_an_error_of_ours(cudart: FakeCudart, monkeypatch: pytest.MonkeyPatch) -> None:
    array = CudaDevice().zeros((1, 1, 1, 1), np.float32)
    failure = lambda *_: (SimpleNamespace(name="cudaErrorIllegalAddress"),)  # noqa: E731
    monkeypatch.setattr(cudart, "cudaMemcpyAsync", failure)
    with pytest.raises(BackendError, match="cudaMemcpyAsync failed on GPU 0: an illegal memory access"):
        array.read()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"error": "cudaErrorInsufficientDriver", "driver": 0}, "no NVIDIA driver was found"),
        ({"error": "cudaErrorInsufficientDriver", "driver": 12040}, r"knows CUDA 12\.4, this needs 13\.5"),
        ({"error": "cudaErrorNoDevice"}, "no NVIDIA GPU was found"),
        ({"count": 0}, "no NVIDIA GPU was found"),
        ({"error": "cudaErrorUnknown"}, "CUDA cannot be used: cudaErrorUnknown"),
    ],
)
def test_missing_gpu_is_told(change: dict[str, Any], message: str, cudart: FakeCudart) -> None:
    for name, value in change.items():
        setattr(cudart, name, value)
    with pytest.raises(RuntimeUnavailableError, match=message):
        list_gpus()


def test_gpus_are_described_and_counted(cudart: FakeCudart) -> None:
    (gpu,) = list_gpus()
    assert (gpu.name, gpu.compute_capability, gpu.memory_bytes) == ("NVIDIA L4", "8.9", 24 * 2**30)
    with pytest.raises(RuntimeUnavailableError, match="there is no GPU 1; there are: 0: NVIDIA L4"):
        CudaDevice(1)


def test_missing_bindings_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(RuntimeUnavailableError, match=r"pip install .*\[cuda\]"):
        list_gpus()


def test_package_without_cuda_is_told_with_the_command() -> None:
    if "CUDAExecutionProvider" in load_onnxruntime().get_available_providers():
        pytest.skip("onnxruntime-gpu is installed here")
    with pytest.raises(RuntimeUnavailableError, match=r"pip uninstall -y onnxruntime, then pip install .*\[cuda\]"):
        load_cuda_provider()


def test_libraries_that_cannot_be_loaded_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    ort = load_onnxruntime()
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(ort, "preload_dlls", lambda: print("Failed to load libcublasLt.so.13"))  # noqa: T201
    with pytest.raises(RuntimeUnavailableError, match=r"Failed to load libcublasLt\.so\.13.*pip install"):
        load_cuda_provider()


@pytest.fixture
def graph_runtime(tiny_bundle: Bundle, tmp_path: Path) -> CudaGraphRuntime:
    """Decode by recordings, with the CPU provider, which ignores their numbers, in the place of CUDA."""
    half = build_half(tiny_bundle, tmp_path / "half")
    session = open_device_session(half.model_path, load_onnxruntime(), [("CPUExecutionProvider", {})])
    return CudaGraphRuntime(half, session, cache_dtype=np.float16, device=StreamingHost())


def decoded(runtime: Any, cache: Any, rows: int) -> NDArray[np.float32]:
    ids = np.random.default_rng(0).integers(0, 300, (rows, 9))
    counts = np.arange(rows) % 4 + 2
    runtime.step(ids[:, :5], cache, counts=counts)
    return np.stack([runtime.step(ids[:, place : place + 1], cache) for place in range(5, 9)])


def test_recorded_decode_is_the_plain_one(graph_runtime: CudaGraphRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = decoded(graph_runtime, graph_runtime.new_cache(3, 16), 3)
    assert graph_runtime._recordings[0].is_made
    monkeypatch.setattr(CudaGraphRuntime, "MOST_RECORDINGS", 0)
    graph_runtime._recordings.clear()
    plain = decoded(graph_runtime, graph_runtime.new_cache(3, 16), 3)
    assert np.abs(recorded - plain).max() < 1e-2


def test_memory_of_a_recording_is_lent_again(graph_runtime: CudaGraphRuntime) -> None:
    first = graph_runtime.new_cache(1, 16)
    once = decoded(graph_runtime, first, 1)
    second = graph_runtime.new_cache(1, 16)
    assert len(graph_runtime._recordings) == 2
    del first, second
    gc.collect()
    again = graph_runtime.new_cache(1, 16)
    assert len(graph_runtime._recordings) == 2
    np.testing.assert_array_equal(decoded(graph_runtime, again, 1), once)
    other = graph_runtime.new_cache(1, 17)
    assert len(graph_runtime._recordings) == 3
    assert other.capacity == 17
    many = [graph_runtime.new_cache(1, 18) for _ in range(20)]
    assert len(graph_runtime._recordings) == CudaGraphRuntime.MOST_RECORDINGS
    del again, other
    gc.collect()
    newest = graph_runtime.new_cache(1, 19)  # in the place of one that is free
    assert len(graph_runtime._recordings) == CudaGraphRuntime.MOST_RECORDINGS
    assert graph_runtime._lent[newest].buffer_shape[2] == 19
    np.testing.assert_allclose(decoded(graph_runtime, many[-1], 1), once, atol=1e-2)


def test_cache_that_changed_steps_without_its_recording(graph_runtime: CudaGraphRuntime) -> None:
    cache = graph_runtime.new_cache(2, 16)
    graph_runtime.step(np.array([[5], [6]]), cache)
    cache.select([1])  # fewer rows than were recorded
    alone = graph_runtime.new_cache(1, 16)
    graph_runtime.step(np.array([[6]]), alone)
    found, expected = (graph_runtime.step(np.array([[7]]), each) for each in (cache, alone))
    assert np.abs(found - expected).max() < 1e-2
    cache.select([0, 0, 0])  # buffers made anew
    assert graph_runtime.step(np.array([[8]] * 3), cache).shape == (3, 640)


def test_recorded_step_can_be_cancelled(graph_runtime: CudaGraphRuntime) -> None:
    cache = graph_runtime.new_cache(1, 16)
    graph_runtime.step(np.array([[5]]), cache)
    cache.interrupt()
    with pytest.raises(CancelledError):
        graph_runtime.step(np.array([[6]]), cache)
    graph_runtime.step(np.array([[6]]), cache)
    graph_runtime.step(np.array([[7, 8, 9]]), cache)  # a step that is not recorded
    assert cache.lengths.tolist() == [5]
    cache.interrupt()  # the next cache is lent its recording
    del cache
    gc.collect()
    decoded(graph_runtime, graph_runtime.new_cache(1, 16), 1)


def test_cache_that_finds_no_room_stays_what_it_was(cudart: FakeCudart, tiny_bundle: Bundle) -> None:
    config = tiny_bundle.manifest.model
    cache = KVBuffers(config, 1, 16, np.float32, device=CudaDevice())
    before = dict(cache.buffers)
    sizes = iter([1 << 30] * 2)
    full = cudart.cudaMalloc
    cudart.cudaMalloc = lambda size: full(size if next(sizes, None) else 1 << 40)  # type: ignore[method-assign]
    with pytest.raises(BackendError, match="no room"):
        cache.select([0, 0, 0])
    assert cache.buffers == before
    assert cache.buffer_shape[0] == 1


def test_graph_hands_nothing_back_to_the_host(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """A CUDA graph may hold no copy to the host: what Slice starts at is an input, and nothing is computed of it."""
    graph = onnx.load(str(build_half(tiny_bundle, tmp_path / "half").model_path), load_external_data=False).graph
    assert not [node.name for node in graph.node if node.op_type == "Neg"]
    (cut,) = (node for node in graph.node if node.op_type == "Slice")
    assert cut.input[1] == "logits_start"
    assert "logits_start" in {value.name for value in graph.input}


@pytest.mark.parametrize("runtime", ["cpu", "static-cpu"])
def test_option_of_another_runtime_is_refused(runtime: str, tiny_bundle: Bundle) -> None:
    with pytest.raises(InvalidInputError, match=f"runtime {runtime} has no device_id; it has: threads"):
        open_runtime(runtime, tiny_bundle, device_id=0, threads=None)


def parts(found: Callable[[str], str | None], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr("codegen_edge.workflows.diagnosis.installed_version", found)
    return {finding.part: finding for finding in diagnose()}


def test_doctor_tells_what_a_machine_without_a_gpu_lacks(cudart: FakeCudart, monkeypatch: pytest.MonkeyPatch) -> None:
    cudart.error, cudart.driver = "cudaErrorInsufficientDriver", 0
    monkeypatch.setattr(load_onnxruntime(), "get_available_providers", lambda: ["CPUExecutionProvider"])
    found = parts(lambda name: None if name == "onnxruntime-gpu" else "1.32.0", monkeypatch)
    assert not found["GPU"].is_ok
    assert "no NVIDIA driver" in found["GPU"].found
    assert install_command("cuda") in found["runtime cuda"].remedy
    assert "tensorrt-rtx" in found["runtime tensorrt"].found
    assert "no NVIDIA driver" in found["runtime tensorrt"].remedy
    assert found["runtime cpu"].is_ok
    assert found["runtime static-cpu"].is_ok


def test_doctor_sees_both_onnxruntime_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    found = parts(lambda name: "1.32.0", monkeypatch)
    for part in ("runtime cpu", "runtime static-cpu", "runtime cuda"):
        assert not found[part].is_ok
        assert found[part].remedy.startswith("pip uninstall -y onnxruntime onnxruntime-gpu")


@pytest.mark.parametrize(("built_for", "is_ok"), [("13.0", True), ("12.8", True), ("14.0", False), ("", True)])
def test_doctor_compares_cuda_majors(
    built_for: str, is_ok: bool, cudart: FakeCudart, monkeypatch: pytest.MonkeyPatch
) -> None:
    ort = load_onnxruntime()
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)
    monkeypatch.setattr(ort, "cuda_version", built_for)
    found = parts(lambda name: None if name == "onnxruntime" else "1.32.0", monkeypatch)
    assert found["runtime cuda"].is_ok is is_ok
    assert is_ok or "install a driver for CUDA 14" in found["runtime cuda"].remedy
    assert "NVIDIA L4, compute capability 8.9, 24 GiB" in found["GPU"].found
    assert found["runtime tensorrt"].is_ok


def test_doctor_command_prints_its_table() -> None:
    from click.testing import CliRunner

    result = CliRunner().invoke(cli, ["doctor"])
    assert result.exit_code == 0
    for part in ("base", "runtime cpu", "GPU", "runtime cuda"):
        assert part in result.output
