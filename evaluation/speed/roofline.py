"""What the machine can do: bytes read from memory and numbers multiplied per second, in as many threads as a runtime.

A limit is the best of several passes: whatever disturbs a pass makes it slower, nothing makes it faster. Memory is read
in two ways that share no code, numpy's reductions in threads of Python and a product of one row by ONNX Runtime; the
faster one is the limit, the other one shows whether it is believable.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from codegen_edge.evaluation.speed.kinds import ProductKind
from codegen_edge.evaluation.speed.measurement import MeasuredLimits
from codegen_edge.evaluation.speed.surroundings import largest_cache_bytes, memory_bytes
from codegen_edge.ort_session import default_threads, load_onnxruntime, open_session

_SECONDS, _LEAST_PASSES = 0.25, 3  # of one limit
_CACHES = 4  # times the largest cache of the processor: what is read must not lie there
_LEAST_BYTES, _MOST_BYTES = 256 * 2**20, 2**30
_SHARE_OF_MEMORY = 8  # at most one part of so many is read
_ROWS = 1024  # of the matrix that is read by a product
# A product that is large enough for the best speed and takes some hundredths of a second.
_TOKENS, _WIDTH = 256, 2048
_OPSET, _IR_VERSION = 21, 10
_ZERO_POINT = 128  # of rows and weights, as bundles have it
_MICROSOFT = "com.microsoft"


def measure_limits(kinds: Sequence[ProductKind], threads: int | None) -> MeasuredLimits:
    """Measure this machine; takes about half a second for reading and a quarter for each kind."""
    threads = threads or default_threads()
    size_bytes = buffer_bytes()
    buffer = np.ones(size_bytes // 4 // _ROWS * _ROWS, np.float32)
    read = {"numpy": _read_by_numpy(buffer, threads), "onnxruntime": _read_by_product(buffer, threads)}
    del buffer
    multiplied = {kind.label: _multiply(kind, threads) for kind in kinds}
    return MeasuredLimits(read_bytes=read, multiplications=multiplied, buffer_bytes=size_bytes)


def buffer_bytes() -> int:
    """Bytes to read in a pass: four times the largest cache, within what the machine can spare."""
    wanted = max(_LEAST_BYTES, _CACHES * (largest_cache_bytes() or 0))
    memory = memory_bytes()
    most = _MOST_BYTES if memory is None else min(_MOST_BYTES, memory // _SHARE_OF_MEMORY)
    return min(wanted, most)


def _best_seconds(work: Callable[[], object]) -> float:
    """The shortest of several passes, after one to warm up."""
    work()
    best, passes, until = math.inf, 0, time.perf_counter() + _SECONDS
    while passes < _LEAST_PASSES or time.perf_counter() < until:
        started_at = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started_at)
        passes += 1
    return best


def _read_by_numpy(buffer: NDArray[np.float32], threads: int) -> float:
    """Bytes per second of the largest byte of each thread's part; numpy gives up the lock for that."""
    parts = np.array_split(buffer.view(np.uint8), threads)
    with ThreadPoolExecutor(threads) as pool:
        return buffer.nbytes / _best_seconds(lambda: list(pool.map(np.max, parts)))


def _read_by_product(buffer: NDArray[np.float32], threads: int) -> float:
    """Bytes per second of a row times a matrix that no session has packed."""
    matrix = buffer.reshape(_ROWS, -1)
    row = np.ones((1, _ROWS), np.float32)
    inputs = [_value("row", row.shape), _value("matrix", matrix.shape)]
    session = _session(ir.node("MatMul", inputs), inputs, [], (1, matrix.shape[1]), threads)
    ort = load_onnxruntime()
    fed = {"row": ort.OrtValue.ortvalue_from_numpy(row), "matrix": ort.OrtValue.ortvalue_from_numpy(matrix)}
    return buffer.nbytes / _best_seconds(lambda: session.run_with_ort_values(None, fed))


def _multiply(kind: ProductKind, threads: int) -> float:
    """Multiplications per second of a large product of this kind, its weights packed as a bundle's are."""
    rng = np.random.default_rng(0)
    shape = (_TOKENS, _WIDTH)
    if kind.operator == "MatMulInteger":
        given: NDArray[Any] = rng.integers(0, 255, shape, np.uint8)
        codes = rng.integers(0, 255, (_WIDTH, _WIDTH), np.uint8)
        weights = {"weight": codes.view(np.int8) if kind.is_signed else codes}
    else:
        given = rng.standard_normal(shape, np.float32)
        weights = _weights_of(kind, rng)
    constants = [ir.val(name, const_value=ir.tensor(array, name=name)) for name, array in weights.items()]
    inputs = [_value("tokens", shape, ir.DataType.from_numpy(given.dtype))]
    product = [*inputs, *constants]
    if kind.operator == "MatMulInteger":
        zero_point = ir.tensor(np.array(_ZERO_POINT, np.uint8), name="zero_point")
        constants.append(ir.val("zero_point", const_value=zero_point))
        product += [constants[-1]] if kind.is_signed else [constants[-1], constants[-1]]
    attributes = {}
    if kind.operator == "MatMulNBits":
        attributes = {"K": _WIDTH, "N": _WIDTH, "bits": kind.bits, "block_size": kind.block_size}
        attributes["accuracy_level"] = kind.accuracy_level
    domain = _MICROSOFT if kind.operator == "MatMulNBits" else ""
    node = ir.node(kind.operator, product, attributes, domain=domain)
    dtype = ir.DataType.INT32 if kind.operator == "MatMulInteger" else ir.DataType.FLOAT
    session = _session(node, inputs, constants, shape, threads, dtype)
    fed = {"tokens": load_onnxruntime().OrtValue.ortvalue_from_numpy(given)}
    return _TOKENS * _WIDTH * _WIDTH / _best_seconds(lambda: session.run_with_ort_values(None, fed))


def _weights_of(kind: ProductKind, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    if kind.operator == "MatMul":
        return {"weight": rng.standard_normal((_WIDTH, _WIDTH), np.float32)}
    blocks = -(-_WIDTH // kind.block_size)
    codes = rng.integers(0, 256, (_WIDTH, blocks, kind.block_size * kind.bits // 8), np.uint8)
    return {"weight": codes, "scales": rng.random((_WIDTH, blocks), np.float32)}


def _value(name: str, shape: Sequence[int], dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))


def _session(
    node: ir.Node,
    inputs: Sequence[ir.Value],
    constants: Sequence[ir.Value],
    shape: Sequence[int],
    threads: int,
    dtype: ir.DataType = ir.DataType.FLOAT,
) -> Any:
    """A session of one operator."""
    (output,) = node.outputs
    output.name, output.shape, output.type = "product", ir.Shape(shape), ir.TensorType(dtype)
    graph = ir.Graph(
        inputs,
        [output],
        nodes=[node],
        initializers=constants,
        name="limit",
        opset_imports={"": _OPSET, _MICROSOFT: 1},
    )
    model = ir.Model(graph, ir_version=_IR_VERSION)
    return open_session(bytes(ir.to_proto(model).SerializeToString()), threads)
