"""Exact steps on the CPU provider: a token's logits are the same bits however the text before it was read.

Kernels that multiply matrices take rows in pairs and a last lone row another way, which sums in another order;
attention over one new token does, too, and so does a lone token in the last of its tiles (of twice the head's size). So
it was measured with onnxruntime 1.32 on a processor with VNNI (benchmarks/results/exactness.json): the bits of a row do
not depend on the other rows of a product as long as their number is even, nor on the other tokens of an attention as
long as theirs is. Other processors are not assumed to be like that: every bundle is probed when it is opened.

So a run computes its products over the tokens of all rows side by side, [N, E], whatever the rows are: one token each,
a slice of a prompt beside them, drafts of different lengths. N is even; a filler token goes along where the rows have
an odd number. Only attention sees rows: before it the tokens are gathered into [B, T, 3*E], behind it they are gathered
back. A row with an odd number of tokens gets one more there, whose key and value the row's next token overwrites. The
rows' lengths are told by GroupQueryAttention's `query_seqlens` (onnxruntime 1.32). The graph is changed so when it is
loaded; the bundle stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from codegen_edge.bundle import Bundle, contract
from codegen_edge.bundle.graph_file import graph_of_an_export, read_model, session_source
from codegen_edge.errors import BundleError, IntegrityError, RuntimeUnavailableError
from codegen_edge.ort_session import open_session
from codegen_edge.runtimes.backends.kv_buffers import KVBuffers, bind_host, cache_dtype, check_cache_size
from codegen_edge.runtimes.backends.ort import (
    CPU_PREFILL_CHUNK,
    OrtRuntime,
    require_cpu_graph,
    require_open,
    run_bound,
    run_options,
)
from codegen_edge.runtimes.runtime import Logits, Runtime, TokenIds

_QUERY_LENGTHS = "query_seqlens"
_TOKEN_OF_ROW, _ROW_OF_TOKEN = "token_of_row", "row_of_token"
_LOGIT_TOKENS = "logit_tokens"
_QUERY_LENGTHS_INPUT = 16  # of GroupQueryAttention (onnxruntime, docs/ContribOperators.md)
_ROTARY_INPUTS = (7, 8)  # cos_cache and sin_cache
_Number = TypeVar("_Number", int, NDArray[np.int64])

_PAIR = 2  # rows of a product, of which a run has a multiple; and tokens of an attention, of which a row has so many
_AXIS_TOKENS, _AXIS_LOGITS, _AXIS_ATTENDED = "tokens", "logits_kept", "attended_tokens"
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

    free_drafts = _PAIR - 1  # instead of the filler of a lone row
    runs_ragged = True
    prefill_chunk = CPU_PREFILL_CHUNK

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        bundle.require_task("text-generation")
        require_cpu_graph(bundle)
        model = read_model(bundle)
        with graph_of_an_export(bundle):
            _put_side_by_side(model)
        try:
            with bundle.reading():
                graph, folder = session_source(bundle, model)
                session = open_session(graph, threads, weights_folder=folder)
        except IntegrityError:
            raise
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
        return {_QUERY_LENGTHS: [], _TOKEN_OF_ROW: [], _ROW_OF_TOKEN: [2], _LOGIT_TOKENS: []}

    def new_cache(self, batch_size: int, capacity: int) -> KVBuffers:
        """Empty KV buffers for `batch_size` rows of up to `capacity` tokens, and a filler."""
        check_cache_size(self.config, batch_size, capacity)
        return KVBuffers(
            self.config, batch_size, capacity, self._cache_dtype, padding=_PAIR - 1, options=[run_options()]
        )

    def _run_together(self, cache: KVBuffers, counts: NDArray[np.int64], num_new: int, *, all_logits: bool) -> bool:
        # The operator wants room for the longest of the rows behind every row. One by one they give the same bits.
        return int(cache.lengths.max()) + _even(num_new) <= cache.buffer_shape[2]

    def _run(
        self,
        token_ids: TokenIds,
        cache: KVBuffers,
        rows: slice,
        counts: NDArray[np.int64],
        *,
        all_logits: bool,
    ) -> Logits:
        """Run the graph once over the tokens of all rows; the logits of the real ones, [B, T or 1, V]."""
        session = require_open(self._session, self.name, self._process)
        batch_size, num_new = token_ids.shape
        places = np.argwhere(np.arange(num_new) < counts[:, None])  # [N, 2], row and position of each token
        num_tokens = len(places)
        ends = np.cumsum(counts)  # [B], the tokens of row b end before ends[b]
        ids = np.full(_even(num_tokens), _FILLER, np.int64)
        ids[:num_tokens] = token_ids[places[:, 0], places[:, 1]]
        row_of_token = np.zeros((len(ids), 2), np.int64)
        row_of_token[:num_tokens] = places
        # Attention takes queries in tiles of an even size: with an even number of them no tile holds a lone one.
        num_attended = _even(counts)
        positions = np.arange(int(num_attended.max()))  # [T]
        token_of_row = np.minimum(positions, (counts - 1)[:, None]) + (ends - counts)[:, None]  # [B, T]
        kept = np.arange(num_tokens) if all_logits else ends - 1
        # The LM head is a product as well.
        logit_tokens = np.zeros(_even(len(kept)), np.int64)
        logit_tokens[: len(kept)] = kept
        totals = cache.lengths[rows] + num_attended
        mask = (np.arange(int(totals.max())) < totals[:, None]).astype(np.int64)
        logits = np.empty((len(logit_tokens), self.config.vocab_size), np.float32)
        inputs = {
            contract.INPUT_IDS: ids,
            contract.ATTENTION_MASK: mask,
            _QUERY_LENGTHS: num_attended.astype(np.int32),
            _TOKEN_OF_ROW: token_of_row,
            _ROW_OF_TOKEN: row_of_token,
            _LOGIT_TOKENS: logit_tokens,
        }
        binding: Any = cache.binding(session, rows)
        for name, values in inputs.items():
            bind_host(binding.bind_input, name, values)
        bind_host(binding.bind_output, contract.LOGITS, logits)
        run_bound(session, binding, cache, token_ids.shape)
        logits = logits[: len(kept)]
        if num_tokens == batch_size * num_new or not all_logits:
            return logits.reshape(batch_size, -1, self.config.vocab_size)
        by_row = np.zeros((batch_size, num_new, self.config.vocab_size), np.float32)
        by_row[places[:, 0], places[:, 1]] = logits
        return by_row


def _even(number: _Number) -> _Number:
    return number + number % _PAIR


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


def _put_side_by_side(model: ir.Model) -> None:
    """Change the graph to one over tokens side by side, [N], with attention over the rows that they form."""
    graph = model.graph
    for node in graph:  # of [B, T, …] before; ONNX Runtime finds the new ones
        for value in node.outputs:
            if value not in graph.outputs:
                value.shape = None
    _named(graph.inputs, contract.INPUT_IDS).shape = ir.Shape([_AXIS_TOKENS])
    logits = _named(graph.outputs, contract.LOGITS)
    assert logits.shape is not None
    logits.shape = ir.Shape([_AXIS_LOGITS, logits.shape[-1]])
    lengths = _input(graph, _QUERY_LENGTHS, [contract.AXIS_BATCH], ir.DataType.INT32)
    token_of_row = _input(graph, _TOKEN_OF_ROW, [contract.AXIS_BATCH, _AXIS_ATTENDED], ir.DataType.INT64)
    row_of_token = _input(graph, _ROW_OF_TOKEN, [_AXIS_TOKENS, 2], ir.DataType.INT64)
    attentions = [node for node in graph if node.op_type == "GroupQueryAttention"]
    _lengthen_rotary_tables(attentions[0])
    for node in attentions:
        node.resize_inputs(_QUERY_LENGTHS_INPUT + 1)
        node.replace_input_with(_QUERY_LENGTHS_INPUT, lengths)
        queries, attended = node.inputs[0], node.outputs[0]
        assert queries is not None
        by_row = ir.node("Gather", [queries, token_of_row], {"axis": 0}, name=f"{node.name}.by_row")
        by_token = ir.node("GatherND", [attended, row_of_token], name=f"{node.name}.by_token")
        for made in (by_row, by_token):
            made.outputs[0].type = queries.type
        ir.convenience.replace_all_uses_with(attended, by_token.outputs[0])
        by_token.replace_input_with(0, attended)
        node.replace_input_with(0, by_row.outputs[0])
        graph.insert_before(node, by_row)
        graph.insert_after(node, by_token)
    _pick_logits(graph)


def _pick_logits(graph: ir.Graph) -> None:
    """Let the LM head compute the logits of the tokens that are named, instead of each row's last ones."""
    keep = _named(graph.inputs, contract.NUM_LOGITS_TO_KEEP)
    (negated,) = (use.node for use in keep.uses())
    (cut,) = (use.node for use in negated.outputs[0].uses())
    chosen = _input(graph, _LOGIT_TOKENS, [_AXIS_LOGITS], ir.DataType.INT64)
    picked = ir.node("Gather", [cut.inputs[0], chosen], {"axis": 0}, name="logits_of_tokens")
    picked.outputs[0].type = cut.outputs[0].type
    graph.insert_before(cut, picked)
    ir.convenience.replace_all_uses_with(cut.outputs[0], picked.outputs[0])
    graph.remove([cut, negated], safe=True)
    graph.inputs.remove(keep)
    graph.initializers.pop(contract.NUM_LOGITS_TO_KEEP, None)  # its default


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


def _named(values: Iterable[ir.Value], name: str) -> ir.Value:
    return next(value for value in values if value.name == name)
