"""An int8 KV cache: every channel of every head has a scale, found on the calibration text.

GroupQueryAttention stores keys and values as `round(x / scale)` and multiplies keys by their scale again. For values
ONNX Runtime 1.32 does not: its output is 1/scale too large. So the values' scale is folded into the weights, columns of
qkv_proj divided by it and rows of out_proj multiplied, and the operator is given 1.0, which is right whatever it does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from codegen_edge.bundle import contract
from codegen_edge.bundle.weights import ReadWeight, Stored, Weight, WeightGroup, new_initializer
from codegen_edge.errors import NumericsError

Extremes = dict[tuple[int, contract.KVPart], NDArray[np.float32]]
"""[H, D] by layer and part: the largest magnitude of a channel."""

_LARGEST_CODE = 127
_MARGIN = 1.1  # a text may go a tenth beyond what the calibration text showed before anything saturates
_LEAST_SCALE = 1e-6  # a channel that was always zero
_SCALE_INPUTS = (12, 13)  # k_scale and v_scale of GroupQueryAttention


def quantize_cache(model: ir.Model, extremes: Extremes) -> list[WeightGroup]:
    """Make past and present of every layer int8, in place.

    Args:
        model: the contract's graph.
        extremes: from the calibration text.

    Returns:
        How the keys' scales, and the values' ones, are made; their source is any weight.

    Raises:
        NumericsError: a channel was not finite.
    """
    graph = model.graph
    groups = []
    attentions = [node for node in graph if node.op_type == "GroupQueryAttention"]
    for layer, node in enumerate(attentions):
        key_scales = scales_of(extremes[layer, "key"])[None, :, None, :]  # [1, H, 1, D]
        scales = {"key": key_scales, "value": np.ones_like(key_scales)}
        values = [
            new_initializer(graph, f"transformer.h.{layer}.attn.{part}_cache_scale", array.shape, ir.DataType.FLOAT)
            for part, array in scales.items()
        ]
        node.resize_inputs(_SCALE_INPUTS[-1] + 1)
        for place, value in zip(_SCALE_INPUTS, values, strict=True):
            node.replace_input_with(place, value)
        for name in ("k_quant_type", "v_quant_type"):
            node.attributes[name] = ir.AttrString(name, "PER_CHANNEL")
        node.attributes["kv_cache_bit_width"] = ir.AttrInt64("kv_cache_bit_width", 8)
        groups.append(
            WeightGroup(
                source=f"transformer.h.{layer}.ln_1.weight",
                values=tuple(values),
                make=_Constant(tuple(scales.values())),
            )
        )
    for value in (*graph.inputs, *graph.outputs):
        if value.name and value.name.startswith(("past_key_values.", "present.")):
            value.type = ir.TensorType(ir.DataType.INT8)
    return groups


@dataclass(frozen=True, slots=True)
class _Constant:
    """Gives the same arrays, whatever weight it is called with."""

    arrays: tuple[Stored, ...]

    def __call__(self, weight: Weight) -> tuple[Stored, ...]:
        return self.arrays


def folded(read: ReadWeight, extremes: Extremes) -> ReadWeight:
    """`read`, with the values' scales folded into qkv_proj and out_proj."""
    scales = {
        f"transformer.h.{layer}.attn": scales_of(extreme).reshape(-1)  # [H*D]
        for (layer, part), extreme in extremes.items()
        if part == "value"
    }

    def read_folded(name: str) -> Weight:
        weight = read(name)
        module, _, kind = name.removesuffix(".weight").rpartition(".")
        if module not in scales or not name.endswith(".weight"):
            return weight
        scale = scales[module]
        if kind == "qkv_proj":  # [H*D, 3*H*D]: queries, keys, values
            weight = weight.copy()
            weight[:, 2 * len(scale) :] /= scale
        elif kind == "out_proj":  # [H*D, H*D]
            weight = weight * scale[:, None]
        return weight

    return read_folded


def scales_of(extreme: NDArray[np.float32]) -> NDArray[np.float32]:
    """The scale of every channel, from its largest magnitude."""
    if not np.isfinite(extreme).all():
        raise NumericsError("the KV cache held NaN or infinity on the calibration text")
    scales: NDArray[np.float32] = np.maximum(extreme * np.float32(_MARGIN / _LARGEST_CODE), np.float32(_LEAST_SCALE))
    return scales
