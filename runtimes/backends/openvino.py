"""The `openvino` runtime: the bundle of target `ort` under Intel's OpenVINO, on a CPU, a GPU or an NPU.

OpenVINO's reader takes that graph in every scheme; it has no TensorScatter, so it takes none of target `tensorrt`. What
it makes of GroupQueryAttention copies all keys and values twice in every step. So that operator is replaced by the
attention over states that OpenVINO's plugins know: keys and values stay in the plugin, which appends to them in place.
States belong to a request, and each row of a cache has a request of its own; rows are run one by one.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codegen_edge.bundle import Bundle, contract
from codegen_edge.dependencies import install_command, require_versions
from codegen_edge.errors import BackendError, BundleError, InvalidInputError, RuntimeUnavailableError
from codegen_edge.ort_session import check_threads, default_threads
from codegen_edge.runtimes.backends.kv_buffers import cache_dtype, check_cache_size
from codegen_edge.runtimes.backends.openvino_states import BEAM_INDEX, StateCache, keep_in_states
from codegen_edge.runtimes.backends.ort import require_cpu_graph, require_open
from codegen_edge.runtimes.runtime import KVCache, Logits, TokenIds
from codegen_edge.runtimes.step_input import check_step

NAME = "openvino"
DEFAULT_DEVICE = "CPU"

_ACTIVATION_BLOCK = 32  # activations that share a scale: as few as the smallest block of our schemes' weights
_POLL_MS = 5  # between two looks at whether a step in flight was interrupted
_MOST_MESSAGE = 300  # characters of openvino's message that an error of ours repeats
_PLACE = re.compile(r"Exception from |Check .* failed at ")  # lines of an error that name openvino's source


def load_openvino() -> Any:
    """Import openvino.

    Raises:
        RuntimeUnavailableError: it is missing; names the extra to install.
        IncompatibleVersionError: it is too old or too new.
    """
    require_versions("openvino")
    try:
        import openvino
    except ImportError as exc:
        raise RuntimeUnavailableError(
            f"the openvino runtime needs openvino ({exc}). Install it with: {install_command('openvino')}"
        ) from exc
    return openvino


def list_devices() -> dict[str, str]:
    """The devices that OpenVINO finds here: their full names by the names that `device_id` takes.

    Raises:
        RuntimeUnavailableError: openvino cannot be had here.
    """
    core = load_openvino().Core()
    return {name: str(core.get_property(name, "FULL_DEVICE_NAME")) for name in core.available_devices}


class OpenVINORuntime:
    """The `openvino` runtime.

    Args:
        bundle: text-generation, target ort, computing in float32.
        threads: CPU threads; None takes all that this process may use.
        device_id: "CPU", "GPU", "GPU.1", "NPU": one of those that `list_devices` finds.
        rounds_activations: False computes int8 and int4 products with float activations on CPUs, too; slowly.

    Raises:
        BundleError: OpenVINO's reader refuses the graph, or it is none that this runtime computes.
        InvalidInputError: no such number of threads, or threads for another device than the CPU.
        RuntimeUnavailableError: openvino or the device cannot be had here, or the device does not compute in float32.
    """

    name = NAME

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        device_id: str = DEFAULT_DEVICE,
        rounds_activations: bool = True,
    ) -> None:
        bundle.require_task("text-generation")
        require_cpu_graph(bundle, NAME)
        if bundle.manifest.kv_cache != "float":
            raise BundleError(
                f"{bundle.path} keeps keys and values in {bundle.manifest.kv_cache}, runtime {NAME} in float32; "
                "quantize the fp32 bundle again with a float cache",
                hint=f"codegen-edge quantize FP32-BUNDLE OUT --scheme {bundle.manifest.precision}",
            )
        if not isinstance(device_id, str):
            raise InvalidInputError(f"device_id must be the name of a device, CPU, GPU or NPU, got {device_id!r}")
        check_threads(threads)
        if threads is not None and device_id != DEFAULT_DEVICE:
            raise InvalidInputError(f"threads must be left out with device {device_id}: they are the CPU's")
        self.config = bundle.manifest.model
        self.device = device_id
        self._library = load_openvino()
        self._cache_dtype = cache_dtype(bundle.manifest)
        self._compiled: Any | None = self._compile(bundle, _settings(device_id, threads, rounds_activations))
        self._process = os.getpid()

    def new_cache(self, batch_size: int, capacity: int) -> StateCache:
        """Empty states for `batch_size` rows of up to `capacity` tokens."""
        check_cache_size(self.config, batch_size, capacity)
        return StateCache(self.config, batch_size, capacity, self._cache_dtype, self._new_request)

    def _new_request(self) -> Any:
        """A request whose states hold no token."""
        compiled = require_open(self._compiled, self.name, self._process)
        request = compiled.create_infer_request()
        request.set_tensor(BEAM_INDEX, self._library.Tensor(np.zeros(1, np.int32)))
        return request

    def step(
        self,
        token_ids: TokenIds,
        cache: KVCache,
        *,
        counts: NDArray[np.int64] | None = None,
        all_logits: bool = False,
    ) -> Logits:
        """Append tokens to every row and return logits; see `Runtime.step`."""
        assert isinstance(cache, StateCache)
        require_open(self._compiled, self.name, self._process)
        counts = check_step(token_ids, cache, counts, self.config.vocab_size)
        batch_size, num_new = token_ids.shape
        logits = np.zeros((batch_size, num_new if all_logits else 1, self.config.vocab_size), np.float32)
        try:
            for row, count in enumerate(counts.tolist()):
                made = self._run(token_ids[row : row + 1, :count], cache, row, all_logits=all_logits)
                logits[row, : made.shape[1]] = made[0]
            cache.raise_if_interrupted()
        except BaseException:
            cache.restore()
            raise
        cache.lengths = cache.lengths + counts
        return logits if all_logits else logits[:, 0]

    def close(self) -> None:
        """Free the compiled graph."""
        self._compiled = None

    def _run(self, token_ids: TokenIds, cache: StateCache, row: int, *, all_logits: bool) -> Logits:
        """Run the graph on one row [1, T]; return a view of [1, T or 1, V] that the row's next run overwrites."""
        request, tensor = cache.requests[row], self._library.Tensor
        total = int(cache.lengths[row]) + token_ids.shape[1]
        request.set_tensor(contract.INPUT_IDS, tensor(np.ascontiguousarray(token_ids)))
        request.set_tensor(contract.ATTENTION_MASK, tensor(np.ones((1, total), np.int64)))
        request.set_tensor(contract.NUM_LOGITS_TO_KEEP, tensor(np.array([0 if all_logits else 1], np.int64)))
        cache.raise_if_interrupted()
        try:
            request.start_async()
            # An interruption is looked for here, so that none is lost between two runs.
            while not request.wait_for(_POLL_MS):
                if cache.is_interrupted:
                    request.cancel()
            request.wait()
        except RuntimeError as exc:  # the only class of openvino's errors
            cache.raise_if_interrupted()
            raise BackendError(
                f"openvino failed in a step of 1x{token_ids.shape[1]} tokens on {self.device}: {_one_line(exc)}"
            ) from exc
        except BaseException:  # Ctrl-C: the request must be idle before its states are put right
            request.cancel()
            with contextlib.suppress(RuntimeError):
                request.wait()
            raise
        logits: Logits = request.get_tensor(contract.LOGITS).data
        return logits

    def _compile(self, bundle: Bundle, settings: Mapping[str, Any]) -> Any:
        """The graph on the device that was asked for, in float32; raise where it is on another one or in another."""
        library, device, version = self._library, self.device, self._library.get_version()
        core = library.Core()
        if device not in core.available_devices:
            found = ", ".join(core.available_devices) or "none"
            raise RuntimeUnavailableError(
                f"openvino {version} finds no device {device!r} here; it finds: {found}", hint="codegen-edge doctor"
            )
        with bundle.reading():
            try:
                model = core.read_model(bundle.at(contract.MODEL_FILE))
            except RuntimeError as exc:
                raise BundleError(f"openvino {version} cannot read {bundle.model_path}: {_one_line(exc)}") from exc
            self._check_graph(model, bundle)
            try:
                compiled = core.compile_model(keep_in_states(model, self.config), device, settings)
            except RuntimeError as exc:
                raise RuntimeUnavailableError(
                    f"openvino {version} cannot compile {bundle.path} for {device}: {_one_line(exc)}"
                ) from exc
        used = compiled.get_property("EXECUTION_DEVICES")
        precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if used != [device] or precision != "f32":
            raise RuntimeUnavailableError(
                f"{device} in f32 was asked for, openvino {version} computes on {', '.join(used)} in {precision}"
            )
        return compiled

    def _check_graph(self, model: Any, bundle: Bundle) -> None:
        """Raise BundleError unless the graph has the inputs and outputs of the manifest's model."""
        heads = [self.config.num_heads, self.config.head_dim]
        expected: dict[str, list[int]] = {contract.INPUT_IDS: [], contract.ATTENTION_MASK: []}
        expected[contract.LOGITS] = [self.config.vocab_size]
        for place in product(range(self.config.num_layers), contract.KV_PARTS):
            expected[contract.past_name(*place)] = expected[contract.present_name(*place)] = heads
        found = {
            value.get_any_name(): [dim.get_length() for dim in value.get_partial_shape() if dim.is_static]
            for value in (*model.inputs, *model.outputs)
        }
        wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        if wrong:
            raise BundleError(f"{bundle.model_path} is not the graph of {bundle.manifest.model}: {wrong[0]} differs")


def _settings(device: str, threads: int | None, rounds_activations: bool) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "f32",  # bfloat16 otherwise, where the processor has it
        "EXECUTION_MODE_HINT": "ACCURACY",
        "KV_CACHE_PRECISION": "f32",  # 8 bits otherwise
        "NUM_STREAMS": 1,
    }
    if device == DEFAULT_DEVICE:
        settings["INFERENCE_NUM_THREADS"] = threads or default_threads()
        # A thread that is bound to a core waits for whatever else runs there.
        settings["ENABLE_CPU_PINNING"] = False
        # Products with int8 and int4 weights round each block of activations to 8 bits, as they do in runtime cpu.
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = _ACTIVATION_BLOCK if rounds_activations else 0
    return settings


def _one_line(exc: Exception) -> str:
    """What openvino reports, without the places in its source."""
    lines = [line.strip() for line in str(exc).splitlines()]
    return " ".join(line for line in lines if line and not _PLACE.match(line))[:_MOST_MESSAGE]


def open_runtime(bundle: Bundle, *, threads: int | None = None, device_id: str = DEFAULT_DEVICE) -> OpenVINORuntime:
    """Open a bundle with the `openvino` runtime."""
    return OpenVINORuntime(bundle, threads=threads, device_id=device_id)
