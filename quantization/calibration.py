"""What a float model's matrices and caches see while it reads the calibration text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from codegen_edge.bundle import Bundle, contract
from codegen_edge.bundle.graph_file import read_model, session_source
from codegen_edge.errors import InvalidInputError
from codegen_edge.ort_session import open_session
from codegen_edge.quantization.matrices import Matrix, find_matrices

# A long text is read in part, at places spread over all of it.
_MOST_TOKENS = 131_072
# Second moments take as many tokens as make this many multiplications of the model, minutes, but no fewer than four for
# every input of the widest matrix. More lowered the loss of the trained checkpoint within its interval only
# (benchmarks/results/calibration.json; its widest matrix has 1,024 inputs). Extremes of a cache need the rare token.
_MULTIPLICATIONS = 4 * 10**12
_TOKENS_OF_AN_INPUT = 4
_TOKENS_A_RUN = 512  # bounds the memory of the intermediate values
_MOMENT_BYTES = 2_000_000_000  # of second moments kept at once; a larger model is run several times


class Calibration:
    """A float bundle and the text that it reads.

    Args:
        bundle: fp32, text-generation.
        documents: token ids of each text, `<|endoftext|>` first.
        threads: CPU threads; None takes all that this process may use.

    Attributes:
        moment_tokens: that second moments are of; None before there are any.

    Raises:
        InvalidInputError: there is no token to read.
    """

    def __init__(self, bundle: Bundle, documents: Sequence[NDArray[np.int64]], *, threads: int | None = None) -> None:
        self._bundle = bundle
        self._threads = threads
        length = min(_TOKENS_A_RUN, bundle.manifest.model.context_length)
        windows = [part for document in documents for part in _cut(document, length)]
        if not windows:
            raise InvalidInputError("the calibration text has no tokens")
        self._windows = _spread(windows, _MOST_TOKENS)
        self._moments: dict[str, NDArray[np.float32]] = {}
        self.moment_tokens: int | None = None

    def second_moment(self, name: str) -> NDArray[np.float32] | None:
        """[K, K], the mean of x x' over the inputs x of the matrix `name`; None for an embedding, which has none.

        Runs the model where it is not known yet, for this matrix and as many after it as memory allows.
        """
        model = read_model(self._bundle)
        matrices = [matrix for matrix in find_matrices(model.graph) if matrix.kind != "embedding"]
        names = [matrix.name for matrix in matrices]
        if name not in names:
            return None
        if name not in self._moments:
            windows = _spread(self._windows, most_tokens(matrices))
            self.moment_tokens = sum(map(len, windows))
            self._moments = self._collect(model, _that_fit(matrices[names.index(name) :]), windows)
        return self._moments[name]

    def cache_extremes(self) -> dict[tuple[int, contract.KVPart], NDArray[np.float32]]:
        """[H, D] by layer and part: the largest magnitude of every channel of keys (rotated) and values."""
        config = self._bundle.manifest.model
        with self._bundle.reading():
            session = open_session(self._bundle.at(contract.MODEL_FILE), self._threads)
        names = [contract.present_name(*place) for place in _places(config.num_layers)]
        extremes = {
            place: np.zeros((config.num_heads, config.head_dim), np.float32) for place in _places(config.num_layers)
        }
        for window in self._windows:
            caches = session.run(names, self._feed(window))  # each [1, H, T, D]
            for place, cache in zip(extremes, caches, strict=True):
                np.maximum(extremes[place], np.abs(cache[0]).max(axis=1), out=extremes[place])
        return extremes

    def _collect(
        self, model: ir.Model, matrices: Sequence[Matrix], windows: Sequence[NDArray[np.int64]]
    ) -> dict[str, NDArray[np.float32]]:
        """Second moments of some matrices; those with the same input share one."""
        inputs: dict[str, ir.Value] = {}
        for matrix in matrices:
            value = matrix.node.inputs[0]
            assert value is not None
            assert value.name is not None
            inputs[value.name] = value
        for value in inputs.values():
            value.type = ir.TensorType(ir.DataType.FLOAT)
        model.graph.outputs[:] = list(inputs.values())
        with self._bundle.reading():
            graph, folder = session_source(self._bundle, model)
            session = open_session(graph, self._threads, weights_folder=folder)
        sums: dict[str, NDArray[np.float64]] = {}
        products: dict[int, NDArray[np.float32]] = {}  # by K, used again: new memory costs time
        for window in windows:
            for name, values in zip(inputs, session.run(list(inputs), self._feed(window)), strict=True):
                rows = values[0]  # [T, K]
                columns = rows.shape[1]
                if columns not in products:
                    products[columns] = np.empty((columns, columns), np.float32)
                # Of a view of `rows` numpy computes one triangle and copies it to the other one, which takes longer.
                product_ = np.matmul(np.ascontiguousarray(rows.T), rows, out=products[columns])
                if name in sums:
                    sums[name] += product_
                else:
                    sums[name] = product_.astype(np.float64)
        num_tokens = sum(map(len, windows))
        means = {name: (total / num_tokens).astype(np.float32) for name, total in sums.items()}
        return {matrix.name: means[str(matrix.node.inputs[0].name)] for matrix in matrices if matrix.node.inputs[0]}

    def _feed(self, window: NDArray[np.int64]) -> dict[str, NDArray[np.generic]]:
        config = self._bundle.manifest.model
        empty = np.zeros((1, config.num_heads, 0, config.head_dim), np.float32)
        feed: dict[str, NDArray[np.generic]] = {
            contract.INPUT_IDS: window[None],
            contract.ATTENTION_MASK: np.ones((1, len(window)), np.int64),
        }
        return feed | {contract.past_name(*place): empty for place in _places(config.num_layers)}


def _places(num_layers: int) -> Iterator[tuple[int, contract.KVPart]]:
    return product(range(num_layers), contract.KV_PARTS)


def most_tokens(matrices: Sequence[Matrix]) -> int:
    """Tokens of a calibration text that second moments are of, for a model with these matrices."""
    multiplications = sum(matrix.rows * matrix.columns for matrix in matrices)
    enough = _TOKENS_OF_AN_INPUT * max(matrix.columns for matrix in matrices)
    return min(_MOST_TOKENS, max(enough, _MULTIPLICATIONS // multiplications))


def _cut(document: NDArray[np.int64], length: int) -> list[NDArray[np.int64]]:
    """Windows of up to `length` tokens."""
    return [document[start : start + length] for start in range(0, len(document), length)]


def _spread(windows: Sequence[NDArray[np.int64]], num_tokens: int) -> list[NDArray[np.int64]]:
    """All windows, or as many as hold about `num_tokens`, at equal distances."""
    total = sum(map(len, windows))
    count = max(1, min(len(windows), len(windows) * num_tokens // total))
    return [windows[place] for place in np.linspace(0, len(windows) - 1, count, dtype=np.int64)]


def _that_fit(matrices: Sequence[Matrix]) -> list[Matrix]:
    """As many of the first matrices as _MOMENT_BYTES hold, at least one."""
    chosen: list[Matrix] = []
    taken = 0
    for matrix in matrices:
        taken += 4 * matrix.columns**2
        if chosen and taken > _MOMENT_BYTES:
            break
        chosen.append(matrix)
    return chosen
