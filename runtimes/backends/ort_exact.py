"""Exact steps on the CPU provider: a token's logits are the same bits however the text before it was read.

Kernels that multiply matrices take rows in pairs and a last lone row another way, which sums in another order;
attention over one new token does, too. So it was measured with onnxruntime 1.32 on a processor with VNNI
(benchmarks/results/exactness.json): the bits of a row do not depend on the other rows of a product as long as their
number is even, nor on the other tokens of an attention as long as there are two. Other processors are not assumed to
be like that: every bundle is probed when it is opened.

So every run here has an even number of tokens over all rows: an odd number of rows with an odd number of tokens each
gets a filler token behind every row, whose keys and values the row's next token overwrites. And attention is given two
tokens where a row has one; the second one is padding, inside the graph. Rows are told apart by GroupQueryAttention's
`query_seqlens` (onnxruntime 1.32). The graph is changed so when it is loaded; the bundle stays as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from codegen_edge.bundle import Bundle, contract
from codegen_edge.errors import BackendError, BundleError, RuntimeUnavailableError
from codegen_edge.ort_session import open_session
from codegen_edge.runtimes.backends.kv_buffers import KVBuffers, bind_host, cache_dtype, check_cache_size
from codegen_edge.runtimes.backends.ort import OrtRuntime, run_bound, run_options
from codegen_edge.runtimes.runtime import Logits, Runtime, TokenIds

_QUERY_LENGTHS = "query_seqlens"
_PADS, _NUM_NEW = "attention_pads", "num_new_tokens"
_QUERY_LENGTHS_INPUT = 16  # of GroupQueryAttention (onnxruntime, docs/ContribOperators.md)
_ROTARY_INPUTS = (7, 8)  # cos_cache and sin_cache
_PAIR = 2  # rows of a product, of which a run has a multiple; and tokens of an attention, of which a row has so many
_FILLER = 0  # any id of the vocabulary: nothing of it is read
_PROBE_TOKENS = 9
_PROBE_SEED = 0


class ExactOrtRuntime(OrtRuntime):
    """The `cpu` runtime with exact steps.

    Args:
        bundle: text-generation, target ort, computing in float32.
        threads: CPU threads; None takes all that this process may use.

    Raises:
        RuntimeUnavailableError: this onnxruntime has no ragged attention, or its kernels are not exact on this
            processor for this bundle; says what was measured.
        BundleError: the bundle is of another kind.
    """

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        bundle.require_task("text-generation")
        bundle.require_graph("cpu", target="ort", compute=("fp32",))
        try:
            session = open_session(_exact_graph(bundle.model_path), threads, weights_folder=bundle.model_path.parent)
        except BundleError as exc:
            raise RuntimeUnavailableError(
                f"exact steps need GroupQueryAttention with {_QUERY_LENGTHS}, onnxruntime 1.32 or newer: {exc}"
            ) from exc
        super().__init__("cpu", bundle, session, cache_dtype=cache_dtype(bundle.manifest))
        difference = step_noise(self)
        if difference:
            self.close()
            raise RuntimeUnavailableError(
                f"{bundle.path} ({bundle.manifest.precision}) cannot be stepped exactly on this processor: logits "
                f"differ by up to {difference:.1e} with the way a text is read"
            )

    @property
    def _own_inputs(self) -> dict[str, list[int]]:
        return {_QUERY_LENGTHS: [], _PADS: [6], _NUM_NEW: [1]}

    def new_cache(self, batch_size: int, capacity: int) -> KVBuffers:
        """Empty KV buffers for `batch_size` rows of up to `capacity` tokens, and a filler."""
        check_cache_size(self.config, batch_size, capacity)
        return KVBuffers(
            self.config, batch_size, capacity, self._cache_dtype, padding=_PAIR - 1, options=[run_options()]
        )

    def _run_together(self, cache: KVBuffers, counts: NDArray[np.int64], num_new: int, *, all_logits: bool) -> bool:
        # Rows of different lengths would need the logits of every position.
        return int(counts.min()) == num_new

    def _run(
        self,
        token_ids: TokenIds,
        cache: KVBuffers,
        rows: slice,
        counts: NDArray[np.int64],
        *,
        all_logits: bool,
    ) -> Logits:
        """Run the graph over an even number of tokens; the logits of the real ones, [B, T or 1, V]."""
        if self._session is None:
            raise BackendError(f"the {self.name} runtime was closed")
        batch_size, num_new = token_ids.shape
        num_fed = num_new + num_new * batch_size % _PAIR
        num_attended = max(num_fed, _PAIR)
        ids = np.full((batch_size, num_fed), _FILLER, np.int64)
        ids[:, :num_new] = token_ids
        totals = cache.lengths[rows] + num_attended
        mask = (np.arange(int(totals.max())) < totals[:, None]).astype(np.int64)
        # The LM head is a product as well: of an odd number of rows it gets two positions each.
        num_kept = num_fed if all_logits else 1 + batch_size % _PAIR
        logits = np.empty((batch_size, num_kept, self.config.vocab_size), np.float32)
        inputs = {
            contract.INPUT_IDS: ids,
            contract.ATTENTION_MASK: mask,
            contract.NUM_LOGITS_TO_KEEP: np.array([num_kept], np.int64),
            _QUERY_LENGTHS: np.full(batch_size, num_attended, np.int32),
            _PADS: np.array([0, 0, 0, 0, num_attended - num_fed, 0], np.int64),
            _NUM_NEW: np.array([num_fed], np.int64),
        }
        binding: Any = cache.binding(self._session, rows)
        for name, values in inputs.items():
            bind_host(binding.bind_input, name, values)
        bind_host(binding.bind_output, contract.LOGITS, logits)
        run_bound(self._session, binding, cache, ids.shape)
        if all_logits:
            return logits[:, :num_new]
        last = num_new - 1 - (num_fed - num_kept)
        return logits[:, last : last + 1]


def step_noise(runtime: Runtime) -> float:
    """The largest difference of a logit between ways of reading a text; 0 where all of them give the same bits.

    A text is read at once, in odd and even chunks, and token by token: alone, and beside one, two and three others.
    """
    rng = np.random.default_rng(_PROBE_SEED)
    ids = rng.integers(0, runtime.config.vocab_size, (4, _PROBE_TOKENS))
    capacity = min(_PROBE_TOKENS, runtime.config.context_length)
    ids = ids[:, :capacity]
    whole = runtime.step(ids[:1], runtime.new_cache(1, capacity), all_logits=True)[0]
    largest = 0.0
    for rows, chunk in ((1, 3), (1, 4), (1, 1), (2, 1), (3, 1), (4, 1)):
        cache = runtime.new_cache(rows, capacity)
        parts = [
            runtime.step(ids[:rows, start : start + chunk], cache, all_logits=True)[0]
            for start in range(0, capacity, chunk)
        ]
        largest = max(largest, float(np.abs(np.concatenate(parts) - whole).max()))
    return largest


def _exact_graph(path: Path) -> bytes:
    """The graph with attention over padded queries, and three more inputs that say how they are padded."""
    model = ir.load(path)
    graph = model.graph
    lengths = _input(graph, _QUERY_LENGTHS, [contract.AXIS_BATCH], ir.DataType.INT32)
    pads = _input(graph, _PADS, [6], ir.DataType.INT64)  # before and behind each of [B, T, 3*H*D]
    num_new = _input(graph, _NUM_NEW, [1], ir.DataType.INT64)
    start, axis = (_constant(graph, f"{_NUM_NEW}.{name}", value) for name, value in (("start", 0), ("axis", 1)))
    attentions = [node for node in graph if node.op_type == "GroupQueryAttention"]
    _lengthen_rotary_tables(attentions[0])
    for node in attentions:
        node.resize_inputs(_QUERY_LENGTHS_INPUT + 1)
        node.replace_input_with(_QUERY_LENGTHS_INPUT, lengths)
        queries, attended = node.inputs[0], node.outputs[0]
        assert queries is not None
        padded = ir.node("Pad", [queries, pads], name=f"{node.name}.Pad")
        padded.outputs[0].type = queries.type
        cut = ir.node("Slice", [attended, start, num_new, axis], name=f"{node.name}.Slice")
        cut.outputs[0].type = attended.type
        ir.convenience.replace_all_uses_with(attended, cut.outputs[0])
        cut.replace_input_with(0, attended)
        attended.shape = None
        node.replace_input_with(0, padded.outputs[0])
        graph.insert_before(node, padded)
        graph.insert_after(node, cut)
    return bytes(ir.to_proto(model).SerializeToString())


def _lengthen_rotary_tables(attention: ir.Node) -> None:
    """Give the tables of all attentions, [positions, width], a row more: a full context may be followed by padding."""
    for place in _ROTARY_INPUTS:
        table = attention.inputs[place]
        assert table is not None
        assert table.const_value is not None
        values = np.pad(table.const_value.numpy(), ((0, _PAIR - 1), (0, 0)))
        table.const_value = ir.tensor(values, name=table.name)
        table.shape = ir.Shape(values.shape)


def _input(graph: ir.Graph, name: str, shape: list[str | int], dtype: ir.DataType) -> ir.Value:
    value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
    graph.inputs.append(value)
    return value


def _constant(graph: ir.Graph, name: str, number: int) -> ir.Value:
    value = ir.Value(name=name, shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.INT64))
    value.const_value = ir.tensor(np.array([number], np.int64), name=name)
    graph.register_initializer(value)
    return value
