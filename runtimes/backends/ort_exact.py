"""Exact steps on the CPU provider: a token's logits are the same bits however the text before it was read.

Kernels that multiply matrices take several rows at a time and a lone last row another way, which sums in another order;
attention over one new token does, too. Measured over onnxruntime 1.32's kernels, with VNNI and without
(benchmarks/results/exactness.json): the bits of a row do not depend on the other rows as long as their number is even.
So every run here has an even number of tokens per row: where a step has an odd one, a filler token follows, whose keys
and values the row's next token overwrites. Rows of one batch are told apart by GroupQueryAttention's `query_seqlens`
(onnxruntime 1.32), which the graph is given when it is loaded; the bundle stays as it is.
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
from codegen_edge.runtimes.runtime import KVCache, Logits, Runtime, TokenIds
from codegen_edge.runtimes.step_input import check_step

_QUERY_LENGTHS = "query_seqlens"
_QUERY_LENGTHS_INPUT = 16  # of GroupQueryAttention (onnxruntime, docs/ContribOperators.md)
_ROW = 2  # tokens per row that a run has at least, and a multiple of which it has
_FILLER = 0  # any id of the vocabulary: nothing of it is read
_PROBE_TOKENS = 9
_PROBE_SEED = 0


class ExactOrtRuntime(OrtRuntime):
    """The `cpu` runtime with exact steps. A step of one token costs a step of two.

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
            session = open_session(
                _with_query_lengths(bundle.model_path), threads, weights_folder=bundle.model_path.parent
            )
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
    def _own_inputs(self) -> tuple[str, ...]:
        return (_QUERY_LENGTHS,)

    def new_cache(self, batch_size: int, capacity: int) -> KVBuffers:
        """Empty KV buffers for `batch_size` rows of up to `capacity` tokens, and a filler."""
        check_cache_size(self.config, batch_size, capacity)
        return KVBuffers(
            self.config, batch_size, capacity, self._cache_dtype, padding=_ROW - 1, options=[run_options()]
        )

    def step(
        self,
        token_ids: TokenIds,
        cache: KVCache,
        *,
        counts: NDArray[np.int64] | None = None,
        all_logits: bool = False,
    ) -> Logits:
        """Append tokens to every row and return logits; see `Runtime.step`."""
        assert isinstance(cache, KVBuffers)
        counts = check_step(token_ids, cache, counts, self.config.vocab_size)
        batch_size, num_new = token_ids.shape
        if counts.min() == num_new:
            logits = self._run_even(token_ids, cache, slice(0, batch_size), all_logits=all_logits)
        else:
            # Rows of different lengths would need the logits of every position.
            logits = np.zeros((batch_size, num_new if all_logits else 1, self.config.vocab_size), np.float32)
            for row, count in enumerate(counts):
                rows = slice(row, row + 1)
                found = self._run_even(token_ids[rows, :count], cache, rows, all_logits=all_logits)
                logits[row, : found.shape[1]] = found[0]
        cache.lengths = cache.lengths + counts
        return logits if all_logits else logits[:, -1]

    def _run_even(self, token_ids: TokenIds, cache: KVBuffers, rows: slice, *, all_logits: bool) -> Logits:
        """Run the graph over an even number of tokens per row; the logits of the real ones, [B, T or 1, V]."""
        if self._session is None:
            raise BackendError(f"the {self.name} runtime was closed")
        batch_size, num_new = token_ids.shape
        num_fed = num_new + num_new % _ROW
        ids = np.full((batch_size, num_fed), _FILLER, np.int64)
        ids[:, :num_new] = token_ids
        totals = cache.lengths[rows] + num_fed
        span = int(totals.max())
        mask = (np.arange(span) < totals[:, None]).astype(np.int64)
        # The LM head is a product as well: it gets two positions per row, one of which may be the filler's.
        logits = np.empty((batch_size, num_fed if all_logits else _ROW, self.config.vocab_size), np.float32)
        binding: Any = cache.binding(self._session, rows)
        bind_host(binding.bind_input, contract.INPUT_IDS, ids)
        bind_host(binding.bind_input, contract.ATTENTION_MASK, mask)
        bind_host(
            binding.bind_input, contract.NUM_LOGITS_TO_KEEP, keep := np.array([0 if all_logits else _ROW], np.int64)
        )
        bind_host(binding.bind_input, _QUERY_LENGTHS, lengths := np.full(batch_size, num_fed, np.int32))
        bind_host(binding.bind_output, contract.LOGITS, logits)
        run_bound(self._session, binding, cache, ids.shape)
        del keep, lengths  # bound by address until here
        if all_logits:
            return logits[:, :num_new]
        last = num_new - 1 - (num_fed - _ROW)
        return logits[:, last : last + 1]


def step_noise(runtime: Runtime) -> float:
    """The largest difference of a logit between ways of reading a text; 0 where all of them give the same bits.

    A text is read at once, in odd and even chunks, token by token, and token by token beside two others.
    """
    rng = np.random.default_rng(_PROBE_SEED)
    ids = rng.integers(0, runtime.config.vocab_size, (3, _PROBE_TOKENS))
    capacity = min(_PROBE_TOKENS, runtime.config.context_length)
    ids = ids[:, :capacity]
    whole = runtime.step(ids[:1], runtime.new_cache(1, capacity), all_logits=True)[0]
    largest = 0.0
    for rows, chunk in ((1, 3), (1, 4), (1, 1), (3, 1)):
        cache = runtime.new_cache(rows, capacity)
        parts = [
            runtime.step(ids[:rows, start : start + chunk], cache, all_logits=True)[0]
            for start in range(0, capacity, chunk)
        ]
        largest = max(largest, float(np.abs(np.concatenate(parts) - whole).max()))
    return largest


def _with_query_lengths(path: Path) -> bytes:
    """The graph with one more input, how many of the new tokens each row has, given to every attention."""
    model = ir.load(path)
    lengths = ir.Value(
        name=_QUERY_LENGTHS, shape=ir.Shape([contract.AXIS_BATCH]), type=ir.TensorType(ir.DataType.INT32)
    )
    model.graph.inputs.append(lengths)
    for node in model.graph:
        if node.op_type == "GroupQueryAttention":
            node.resize_inputs(_QUERY_LENGTHS_INPUT + 1)
            node.replace_input_with(_QUERY_LENGTHS_INPUT, lengths)
    return bytes(ir.to_proto(model).SerializeToString())
