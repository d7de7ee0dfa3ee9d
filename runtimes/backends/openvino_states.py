"""Keys and values in states of OpenVINO: the graph that keeps them there, and the cache over them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from codegen_edge.bundle import contract
from codegen_edge.bundle.model_config import ModelConfig
from codegen_edge.errors import CancelledError, InvalidInputError
from codegen_edge.runtimes.runtime import KVCache

BEAM_INDEX = "beam_idx"
"""Input [1] int32, always 0: the plugins know keys and values in states by the Gather behind them, as beams take it."""

# Inputs of GroupQueryAttention as OpenVINO's reader keeps them. The tables of cosines and sines follow, at places that
# depend on its version; they are the only ones behind that have two axes.
_QUERY, _KEY, _VALUE, _PAST_KEY, _PAST_VALUE, _LAST_POSITION = range(6)
_NOT_OURS = "these keys and values are of another model, or do not fit the cache"


def keep_in_states(model: Any, config: ModelConfig) -> Any:
    """The graph for one row, its keys and values in states that are named like the pasts.

    Args:
        model: the `openvino.Model` that was read.
        config: the model's shape.

    Returns:
        An `openvino.Model` with inputs input_ids [1, T], attention_mask [1, S], num_logits_to_keep [1], beam_idx [1]
        and output logits [1, T or as many as were to be kept, V].
    """
    from openvino import Model, opset6, opset13

    for parameter in model.get_parameters():
        shape = parameter.get_partial_shape()
        shape[0] = 1
        parameter.set_partial_shape(shape)
    keep, beams = opset13.parameter([1], np.int64), opset13.parameter([-1], np.int32)
    beams.output(0).set_names({BEAM_INDEX})
    (constant,) = [node for node in model.get_ops() if contract.NUM_LOGITS_TO_KEEP in node.output(0).get_names()]
    _replace(constant.output(0), keep.output(0))
    model.add_parameters([keep, beams])

    attentions = [node for node in model.get_ops() if node.get_type_name() == "GroupQueryAttention"]
    _replace_attention(attentions, model.input(contract.INPUT_IDS), beams)
    model.validate_nodes_and_infer_types()
    kept = []
    for layer, part in product(range(config.num_layers), contract.KV_PARTS):
        name = contract.past_name(layer, part)
        past, present = model.input(name).get_node(), model.output(contract.present_name(layer, part)).get_node()
        empty = opset13.constant(np.zeros((1, config.num_heads, 0, config.head_dim), np.float32))
        state = opset6.read_value(empty, name, past.get_element_type(), past.get_partial_shape())
        _replace(past.output(0), state.output(0))
        kept.append(opset6.assign(present.input_value(0).get_node(), name))
        model.remove_result(present)
        model.remove_parameter(past)
    return Model(model.get_results(), kept, model.get_parameters(), "codegen")


def _replace_attention(attentions: Sequence[Any], ids: Any, beams: Any) -> None:
    """Put what the plugins know in the place of GroupQueryAttention: [1, H, T, D] onto a past [1, H, P, D]."""
    from openvino import opset13 as ops

    zero, one = (ops.constant(np.array(value, np.int64)) for value in (0, 1))
    first = attentions[0]
    num_new = ops.gather(ops.shape_of(ids), one, zero)
    total = ops.squeeze(ops.add(ops.convert(first.input_value(_LAST_POSITION), "i64"), one), zero)  # S
    positions = ops.range(ops.subtract(total, num_new), total, one, "i64")  # [T]
    is_seen = ops.less_equal(_unsqueezed(ops.range(zero, total, one, "i64"), 0), _unsqueezed(positions, 1))
    lowest = ops.constant(np.finfo(np.float32).min)
    mask = _unsqueezed(ops.select(is_seen, ops.constant(np.float32(0)), lowest), 0, 1)  # [1, 1, T, S]
    tables = [value for value in first.input_values()[_LAST_POSITION + 1 :] if len(value.get_partial_shape()) == 2]
    cos, sin = (_unsqueezed(ops.gather(table, positions, zero), 2) for table in tables)  # [T, rotary_dim / 2, 1]
    for node in attentions:
        query, key = (_rotated(node.input_value(place), cos, sin) for place in (_QUERY, _KEY))
        # [1, H, P, D] and [1, H, T, D] -> [1, H, S, D]
        keys = ops.concat([ops.gather(node.input_value(_PAST_KEY), beams, zero), key], 2)
        values = ops.concat([ops.gather(node.input_value(_PAST_VALUE), beams, zero), node.input_value(_VALUE)], 2)
        scale = ops.constant(np.float32(node.get_attributes()["scale"]))
        attended = ops.scaled_dot_product_attention(query, keys, values, mask, scale)
        # [1, H, T, D] -> [1, T, H*D]
        joined = ops.reshape(ops.transpose(attended, _numbers(0, 2, 1, 3)), _numbers(0, 0, -1), special_zero=True)
        for old, new in zip(node.outputs(), (joined, keys, values), strict=True):
            _replace(old, new.output(0))


def _rotated(heads: Any, cos: Any, sin: Any) -> Any:
    """The first rotary_dim of every head turned by its position, in pairs of neighbours, as CodeGen does."""
    from openvino import opset13 as ops

    head_dim = heads.get_partial_shape()[3].get_length()
    rotary_dim = 2 * cos.get_output_partial_shape(0)[1].get_length()
    turned, rest = ops.variadic_split(heads, _numbers(-1), _numbers(rotary_dim, head_dim - rotary_dim)).outputs()
    # [1, H, T, rotary_dim] -> [1, H, T, rotary_dim / 2, 2]
    pairs = ops.reshape(turned, _numbers(0, 0, 0, rotary_dim // 2, 2), special_zero=True)
    even, odd = ops.split(pairs, ops.constant(np.array(-1, np.int64)), 2).outputs()
    turned = ops.concat(
        [
            ops.multiply(even, cos) - ops.multiply(odd, sin),
            ops.multiply(odd, cos) + ops.multiply(even, sin),
        ],
        -1,
    )
    return ops.concat([ops.reshape(turned, _numbers(0, 0, 0, rotary_dim), special_zero=True), rest], -1)


def _numbers(*values: int) -> Any:
    from openvino import opset13 as ops

    return ops.constant(np.array(values, np.int64))


def _unsqueezed(node: Any, *axes: int) -> Any:
    from openvino import opset13 as ops

    return ops.unsqueeze(node, _numbers(*axes))


def _replace(old: Any, new: Any) -> None:
    """Give `new` to whoever takes `old`, and its names."""
    for taker in list(old.get_target_inputs()):
        taker.replace_source_output(new)
    new.set_names(new.get_names() | old.get_names())
    old.set_names(set())


class StateCache:
    """One request per row, whose states are the row's keys and values [1, H, P, D] by the contract's past names.

    Memory comes and goes with the tokens. Copies are made of rows that are repeated, joined, read or written, and of
    what remains of a row that is rewound; steps make none.

    Args:
        config: the model's shape.
        batch_size: rows at the start.
        capacity: the most tokens a row can hold.
        dtype: of keys and values.
        new_request: makes a request whose states are empty.
    """

    def __init__(
        self, config: ModelConfig, batch_size: int, capacity: int, dtype: DTypeLike, new_request: Callable[[], Any]
    ) -> None:
        self.capacity = capacity
        self.lengths = np.zeros(batch_size, np.int64)
        self.requests = [new_request() for _ in range(batch_size)]
        self.is_interrupted = False
        self._config = config
        self._dtype = np.dtype(dtype)
        self._new_request = new_request
        self._lock = threading.RLock()  # a signal handler may interrupt the thread that holds it

    def rewind(self, row: int, length: int) -> None:
        """Forget what row `row` holds beyond its first `length` tokens; those are copied."""
        if not 0 <= length <= self.lengths[row]:
            raise InvalidInputError(f"row {row} holds {self.lengths[row]} tokens, cannot rewind it to {length}")
        _cut(self.requests[row], length)
        self.lengths[row] = length

    def select(self, rows: Sequence[int], shared: int = 0) -> None:
        """Make the batch `rows` of what it was; only rows that are repeated are copied."""
        places = list(rows)
        self.requests = [
            self._copy(self.requests[row]) if row in places[:place] else self.requests[row]
            for place, row in enumerate(places)
        ]
        self.lengths = self.lengths[np.array(places, np.int64)]

    def join(self, other: KVCache, rows: Sequence[int] | None = None) -> None:
        """Append rows of another cache."""
        assert isinstance(other, StateCache)
        joining = list(range(len(other.lengths)) if rows is None else rows)
        capacity = max(self.capacity, other.capacity) if rows is None else self.capacity
        if any(other.lengths[row] > capacity for row in joining):
            raise InvalidInputError(f"a row that joins holds more than the cache's capacity of {capacity} tokens")
        self.requests = self.requests + [self._copy(other.requests[row]) for row in joining]
        self.capacity = capacity
        self.lengths = np.concatenate([self.lengths, other.lengths[np.array(joining, np.int64)]])

    def reserve(self, rows: int) -> None:
        """Nothing: OpenVINO has no memory to set aside, its states grow with their tokens."""

    def read_row(self, row: int) -> dict[str, NDArray[Any]]:
        """Copies of what a row holds."""
        if not self.lengths[row]:
            return {name: np.zeros(self._shape(0)[1:], self._dtype) for name in self._names()}
        read = {state.name: state.state for state in self.requests[row].query_state()}
        return {name: read[name].data[0].copy() for name in self._names()}

    def write_row(self, row: int, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Make a row hold what `read_row` gave."""
        lengths = {tensor.shape[1] if tensor.ndim == 3 else -1 for tensor in tensors.values()}
        length = lengths.pop() if len(lengths) == 1 else -1
        fits = set(self._names()) == tensors.keys() and 0 <= length <= self.capacity
        if not fits or any(
            tensor.shape != self._shape(length)[1:] or tensor.dtype != self._dtype for tensor in tensors.values()
        ):
            raise InvalidInputError(_NOT_OURS)
        _fill(self.requests[row], {name: tensor[None] for name, tensor in tensors.items()} if length else {})
        self.lengths[row] = length

    def interrupt(self) -> None:
        """Make the run in flight on this cache stop within milliseconds."""
        with self._lock:
            self.is_interrupted = True

    def raise_if_interrupted(self) -> None:
        """Raise CancelledError once for every interruption; the cache is usable afterwards."""
        with self._lock:
            if self.is_interrupted:
                self.is_interrupted = False
                raise CancelledError("the step was cancelled")

    def restore(self) -> None:
        """Take back what a step that failed has appended, in whichever rows and layers."""
        for request, length in zip(self.requests, self.lengths.tolist(), strict=True):
            _cut(request, length)

    def _copy(self, request: Any) -> Any:
        made = self._new_request()
        _fill(made, {state.name: state.state.data for state in request.query_state()})
        return made

    def _names(self) -> list[str]:
        return [contract.past_name(*place) for place in product(range(self._config.num_layers), contract.KV_PARTS)]

    def _shape(self, length: int) -> tuple[int, int, int, int]:
        return 1, self._config.num_heads, length, self._config.head_dim


def _cut(request: Any, length: int) -> None:
    """Leave the first `length` tokens in a request's states."""
    states = {state.name: state.state for state in request.query_state()} if length else {}
    if not length or any(values.shape[2] > length for values in states.values()):
        _fill(request, {name: values.data[:, :, :length] for name, values in states.items()})


def _fill(request: Any, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Set all states of a request, [1, H, P, D] by name; none makes them empty."""
    from openvino import Tensor

    if not tensors or not all(tensor.size for tensor in tensors.values()):
        request.reset_state()
        return
    for state in request.query_state():
        state.state = Tensor(np.ascontiguousarray(tensors[state.name]))
