"""What a step must do, counted from a bundle's graph: the bytes that it reads, and the numbers that it multiplies.

Weights are counted as the graph's files hold them, once per step. The copies that a runtime packs when it opens a graph
may be larger. Tables of which rows are taken (the embedding, the rotary angles) count with these rows only. Of the
cache, the keys and values of a row's tokens are read in every step.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir

from codegen_edge.bundle import Bundle, contract
from codegen_edge.bundle.weights import size_bytes_of
from codegen_edge.evaluation.speed.kinds import BY_ROW, FASTEST, FLOAT, ProductKind

# Inputs of which a step reads the rows of its tokens, by operator.
_TABLES = {
    "Gather": (0,),
    "GatherBlockQuantized": (0, 2, 3),
    "GroupQueryAttention": (7, 8),
}
_PRODUCTS = {"MatMul", "Gemm", "MatMulNBits", "MatMulInteger", "DynamicQuantizeMatMul"}
_WEIGHT_INPUT = 1
# What a weight may pass on its way into a product.
_ON_THE_WAY = {"DequantizeLinear", "Transpose", "Cast", "CastLike", "Identity", "Reshape"}


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphWork:
    """What one step of a graph does.

    Attributes:
        weight_bytes: read whole, once per step.
        row_bytes: of tables, read once per token.
        position_bytes: keys and values of one token of one row, of all layers.
        body: multiplications per token, by kind, without the LM head's.
        head: multiplications of the LM head for one position, by kind.
        attention: multiplications for one new token and one token that it looks at.
    """

    weight_bytes: int
    row_bytes: int
    position_bytes: int
    body: Mapping[ProductKind, int]
    head: Mapping[ProductKind, int]
    attention: int

    @property
    def kinds(self) -> tuple[ProductKind, ...]:
        """Of its products, and those that a limit is always measured for."""
        kinds = {FLOAT, *self.body, *self.head}
        if kinds != {FLOAT}:
            kinds.add(FASTEST)
        return tuple(sorted(kinds, key=lambda kind: kind.label))

    def decode_bytes(self, batch: int, prompt_tokens: int, new_tokens: int) -> float:
        """Read by a decode step, on average over the steps that give the 2nd to the last new token."""
        # Step i of 1 … new_tokens - 1 looks at prompt_tokens + i tokens, its own included.
        positions = prompt_tokens + new_tokens / 2
        return self.weight_bytes + batch * (self.row_bytes + positions * self.position_bytes)

    def decode_multiplications(self, batch: int, prompt_tokens: int, new_tokens: int) -> dict[ProductKind, float]:
        """Of a decode step, on average, by kind."""
        counts: Counter[ProductKind] = Counter()
        for kind, count in (*self.body.items(), *self.head.items()):
            counts[kind] += batch * count
        attended = batch * self.attention * (prompt_tokens + new_tokens / 2)
        return {**counts, FLOAT: counts[FLOAT] + attended}

    def prefill_bytes(self, batch: int, prompt_tokens: int, chunk: int) -> float:
        """Read by a prefill: the weights once per chunk. Keys and values were just written; they are not counted."""
        return self.weight_bytes * -(-prompt_tokens // chunk) + batch * prompt_tokens * self.row_bytes

    def prefill_multiplications(self, batch: int, prompt_tokens: int, chunk: int) -> dict[ProductKind, float]:
        """Of a prefill, by kind; attention is causal, and each chunk's last position gets logits."""
        counts: Counter[ProductKind] = Counter()
        num_logits = -(-prompt_tokens // chunk)
        for kind, count in self.body.items():
            counts[kind] += batch * prompt_tokens * count
        for kind, count in self.head.items():
            counts[kind] += batch * num_logits * count
        attended = batch * self.attention * prompt_tokens * (prompt_tokens + 1) / 2
        return {**counts, FLOAT: counts[FLOAT] + attended}


def count_work(bundle: Bundle) -> GraphWork:
    """Count what a step of the bundle's graph does.

    Args:
        bundle: text-generation, for runtime cpu.
    """
    assert bundle.manifest.target == "ort", "what other graphs read depends on their buffers"
    graph = ir.load(bundle.model_path).graph
    weight_bytes, row_bytes = _bytes_read(graph)
    body, head = _products(graph)
    manifest = bundle.manifest
    model = manifest.model
    head_values = model.num_layers * model.num_heads * model.head_dim
    return GraphWork(
        weight_bytes=weight_bytes,
        row_bytes=row_bytes,
        position_bytes=2 * head_values * contract.ITEM_BYTES[manifest.cache_precision],
        body=body,
        head=head,
        attention=2 * head_values,
    )


def _bytes_read(graph: ir.Graph) -> tuple[int, int]:
    """Bytes of what is read whole, and those of tables per token."""
    whole, rows = 0, 0
    initializers = set(graph.initializers)
    for node in graph:
        tables = _TABLES.get(node.op_type, ())
        for place, value in enumerate(node.inputs):
            if value is None or value.name not in initializers or not _is_weight(value):
                continue
            assert value.shape is not None
            size_bytes = size_bytes_of(value)
            if place in tables:
                rows += size_bytes // int(value.shape.numpy()[0])
            else:
                whole += size_bytes
    return whole, rows


def _is_weight(value: ir.Value) -> bool:
    """Whether it has more than one number; the others are constants of shapes and the like."""
    assert value.shape is not None
    return value.shape.rank() > 0 and any(size > 1 for size in value.shape.numpy())


def _products(graph: ir.Graph) -> tuple[dict[ProductKind, int], dict[ProductKind, int]]:
    """Multiplications per token of the products with weights, by kind: those of the body, those of the LM head."""
    head_node = _head(graph)
    found: list[tuple[ProductKind, int, bool]] = []
    for node in graph:
        count = _multiplications(node, graph) if node.op_type in _PRODUCTS else 0
        if count:
            found.append((_kind_of(node, graph), count, node is head_node))
    largest = _usual_kinds(found)
    body: Counter[ProductKind] = Counter()
    head: Counter[ProductKind] = Counter()
    for kind, count, is_head in found:
        (head if is_head else body)[largest[replace(kind, block_size=0)]] += count
    return dict(body), dict(head)


def _usual_kinds(found: list[tuple[ProductKind, int, bool]]) -> dict[ProductKind, ProductKind]:
    """For kinds that differ in their block size only: the one that does most of the work stands for all."""
    work: dict[ProductKind, Counter[ProductKind]] = defaultdict(Counter)
    for kind, count, _ in found:
        work[replace(kind, block_size=0)][kind] += count
    return {family: counts.most_common(1)[0][0] for family, counts in work.items()}


def _kind_of(node: ir.Node, graph: ir.Graph) -> ProductKind:
    if node.op_type in ("MatMul", "Gemm"):
        return FLOAT
    if node.op_type != "MatMulNBits":
        weight = _weight(node, graph)
        return FASTEST if weight is not None and weight.dtype == ir.DataType.INT8 else BY_ROW
    return ProductKind(
        operator="MatMulNBits",
        bits=_number(node, "bits", 4),
        block_size=_number(node, "block_size", 32),
        accuracy_level=_number(node, "accuracy_level", 0),
    )


def _multiplications(node: ir.Node, graph: ir.Graph) -> int:
    """Of one token by the node's weight; 0 for a product of two activations."""
    if node.op_type == "MatMulNBits":
        return _number(node, "K", 0) * _number(node, "N", 0)
    value = _weight(node, graph)
    if value is None or value.shape is None or value.shape.rank() != 2:
        return 0
    rows, columns = value.shape.numpy()
    return int(rows) * int(columns)


def _weight(node: ir.Node, graph: ir.Graph) -> ir.Value | None:
    """The initializer that a product multiplies with; None where there is none."""
    value = node.inputs[_WEIGHT_INPUT]
    while value is not None and value.name not in graph.initializers:
        maker = value.producer()
        if maker is None or maker.op_type not in _ON_THE_WAY:
            return None
        value = maker.inputs[0]
    return value


def _head(graph: ir.Graph) -> ir.Node | None:
    """The product that the logits come from."""
    value: ir.Value | None = next((each for each in graph.outputs if each.name == contract.LOGITS), None)
    while value is not None:
        node = value.producer()
        if node is None or node.op_type in _PRODUCTS:
            return node
        value = node.inputs[0]
    return None


def _number(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else int(attribute.as_int())
