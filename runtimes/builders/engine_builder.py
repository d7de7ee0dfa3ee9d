"""TensorRT engines of the static graph: its axes fixed, parsed, built. TensorRT-RTX needs no GPU for that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from codegen_edge.bundle import CURRENT_GPU, contract
from codegen_edge.errors import BackendError, BundleError, InvalidInputError, RuntimeUnavailableError
from codegen_edge.runtimes.tensorrt_library import TensorRT, reported_errors


def fix_axes(model: ir.Model, *, batch_size: int, num_new: int, buffer_length: int) -> None:
    """Give the graph's symbolic axes their sizes; TensorRT-RTX's compiler fails on symbolic ones."""
    sizes = {
        contract.AXIS_BATCH: batch_size,
        contract.AXIS_NEW: num_new,
        contract.AXIS_CAPACITY: buffer_length,
    }
    values = [*model.graph.inputs, *model.graph.outputs]
    for value in values:
        assert value.shape is not None
        value.shape = ir.Shape([dim if isinstance(dim, int) else sizes[str(dim.value)] for dim in value.shape])
    for node in model.graph:
        for value in node.outputs:
            if value not in values:
                value.shape = None  # the parser works them out


class EngineBuilder:
    """Builds engines with an installed library.

    Args:
        library: TensorRT or TensorRT-RTX.
        compute_capabilities: for example ("8.6", "8.9"); empty builds for the GPU of this machine.

    Raises:
        InvalidInputError: the library knows no such compute capability, or builds for this machine's GPU only.
        RuntimeUnavailableError: the library finds no GPU, and none was named.
    """

    def __init__(self, library: TensorRT, compute_capabilities: tuple[str, ...] = ()) -> None:
        self.library = library
        self.compute_capabilities = compute_capabilities or (CURRENT_GPU,)
        self._codes = [_code(library, each) for each in compute_capabilities]

    @property
    def gpu(self) -> str | None:
        """Name of the GPU that engines for "current" run on, None where they were built for named ones."""
        if self._codes:
            return None
        from codegen_edge.runtimes.devices.cuda import find_gpu

        try:
            gpu = find_gpu(0)
        except RuntimeUnavailableError as exc:
            can_name = bool(self.library.compute_capabilities)
            more = "; name the compute capability of one that is elsewhere" if can_name else ""
            raise RuntimeUnavailableError(
                f"{self.library.name} builds for this machine's GPU, but {exc}{more}",
                hint="--compute-capability X.Y" if can_name else "",
            ) from exc
        self.library.require_support(gpu.name, gpu.compute_capability)
        return gpu.name

    def build(self, graph: Path, inputs: dict[str, Tensor], outputs: dict[str, Tensor]) -> bytes:
        """Build the engine of a graph whose axes are fixed.

        Args:
            graph: its file; the data file lies beside it.
            inputs: what it must take, by name.
            outputs: what it must give.

        Raises:
            BundleError: the parser refuses the graph, or its bindings are others.
            BackendError: the build failed.
            RuntimeUnavailableError: the library cannot work here.
        """
        api, logger = self.library.api, self.library.logger
        logger.errors.clear()
        try:
            builder = api.Builder(logger)
        except TypeError as exc:  # how the bindings say that the factory gave nothing
            raise RuntimeUnavailableError(
                f"{self.library.name} {self.library.version} cannot build here: {reported_errors(logger)}"
            ) from exc
        network = builder.create_network(1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = api.OnnxParser(network, logger)
        if not parser.parse_from_file(str(graph)):
            reasons = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
            raise BundleError(f"{self.library.name} {self.library.version} refuses the graph: {reasons}")
        check_bindings("input", inputs, [network.get_input(index) for index in range(network.num_inputs)], api)
        check_bindings("output", outputs, [network.get_output(index) for index in range(network.num_outputs)], api)
        config = builder.create_builder_config()
        if self._codes:
            config.num_compute_capabilities = len(self._codes)
            for index, code in enumerate(self._codes):
                config.set_compute_capability(code, index)
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            raise BackendError(
                f"{self.library.name} {self.library.version} could not build the engine: {reported_errors(logger)}"
            )
        return bytes(engine)


Tensor = tuple[tuple[int, ...], str]
"""Shape, and dtype as numpy names it."""


def check_bindings(kind: str, expected: dict[str, Tensor], found: list[Any], api: Any) -> None:
    """Raise BundleError unless a network's tensors have the expected names, shapes and dtypes."""
    reported = {tensor.name: (tuple(tensor.shape), dtype_name(api, tensor.dtype)) for tensor in found}
    wrong = sorted(name for name in reported.keys() | expected.keys() if reported.get(name) != expected.get(name))
    if wrong:
        raise BundleError(
            f"the {kind} {wrong[0]} is {reported.get(wrong[0])} in the network, {expected.get(wrong[0])} was expected"
        )


def dtype_name(api: Any, dtype: Any) -> str:
    """A TensorRT dtype as numpy names it; "bfloat16" where numpy has none."""
    if dtype == api.DataType.BF16:
        return "bfloat16"
    return str(np.dtype(api.nptype(dtype)))


def _code(library: TensorRT, capability: str) -> Any:
    known = library.compute_capabilities
    if not known:
        raise InvalidInputError(
            f"{library.name} builds for the GPU of this machine only; name no compute capability, or install "
            "tensorrt-rtx"
        )
    if capability not in known:
        raise InvalidInputError(
            f"{library.name} {library.version} builds for compute capabilities {', '.join(known)}, got {capability!r}"
        )
    return getattr(library.api.ComputeCapability, f"SM{capability.replace('.', '')}")
