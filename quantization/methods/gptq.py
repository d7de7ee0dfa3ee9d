"""GPTQ: columns are rounded one after another, and the columns still to come make up for each one's error.

E. Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (2022),
algorithm 1. Minimizes the error of the matrix's outputs over the calibration text, where rounding minimizes the
weights' own. Scales are chosen a block at a time, from the columns as they are by then.

GPTQ never looks back. What it gives is then refined by descent on the same error, one scale and one code at a time,
each to its best value while the others stand.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from codegen_edge.errors import InvalidInputError
from codegen_edge.quantization.blockwise import Floats, Grid, QuantizedMatrix, nearest_codes, usable
from codegen_edge.quantization.methods import QuantizeRows
from codegen_edge.quantization.methods.scale_search import best_scales

_DAMPING = 0.01  # of the mean of the diagonal, as in the paper
_ROUNDS = 2  # of refinement; more lower the error on the calibration text only


def prepare(grid: Grid, second_moment: NDArray[np.float32] | None) -> QuantizeRows:
    """Codes under which the inputs of `second_moment` [K, K] see the least error."""
    if second_moment is None:
        raise InvalidInputError("gptq needs calibration")
    # Padding is weights of zero whose inputs are zero.
    padding = -len(second_moment) % grid.block_size
    moment = np.pad(second_moment.astype(np.float64), ((0, padding), (0, padding)))
    return partial(_quantize, grid, moment.astype(np.float32), _corrections(moment), _importance(moment))


def _quantize(grid: Grid, moment: Floats, corrections: Floats, importance: Floats, weights: Floats) -> QuantizedMatrix:
    rows, columns = weights.shape
    remaining = np.pad(weights, ((0, 0), (0, len(importance) - columns))).astype(np.float32)
    blocks = grid.num_blocks(columns)
    codes = np.empty((rows, blocks, grid.block_size), np.uint8)
    scales = np.empty((rows, blocks), np.float32)
    zero_points = np.empty((rows, blocks), np.uint8)
    for block in range(blocks):
        first, last = block * grid.block_size, (block + 1) * grid.block_size
        current = remaining[:, first:last]
        scale, zero = best_scales(current, grid, importance[first:last])
        errors = np.empty_like(current)
        for column in range(grid.block_size):
            values = current[:, column]
            code = nearest_codes(values[:, None], scale, zero, grid)[:, 0]
            codes[:, block, column] = code
            factors = corrections[first + column, first + column : last]
            errors[:, column] = (values - (code - zero) * scale) / factors[0]
            current[:, column + 1 :] -= np.outer(errors[:, column], factors[1:])
        remaining[:, last:] -= errors @ corrections[first:last, last:]
        scales[:, block] = scale
        zero_points[:, block] = zero
    padded = np.pad(weights, ((0, 0), (0, len(importance) - columns))).astype(np.float32)
    _refine(padded, codes, scales, zero_points, grid, moment)
    return QuantizedMatrix(
        grid=grid,
        columns=columns,
        codes=codes,
        scales=scales,
        zero_points=None if grid.is_symmetric else zero_points,
    )


def _refine(
    weights: Floats,
    codes: NDArray[np.uint8],
    scales: Floats,
    zero_points: NDArray[np.uint8],
    grid: Grid,
    moment: Floats,
) -> None:
    """Lower tr(D H D') for D = weights - dequantized, H = `moment`, by changing codes and scales in place.

    With the gradient G = D H at hand, the best change of a code is G_j / (H_jj scale), rounded, and that of a block's
    scale <G, c> / <c H, c> for its centred codes c. A scale never becomes unusable or changes its sign.
    """
    rows, size = len(weights), grid.block_size
    centred = codes.astype(np.float32) - zero_points[..., None]
    gradient = (weights - (centred * scales[..., None]).reshape(rows, -1)) @ moment
    diagonal = np.diagonal(moment)
    for _ in range(_ROUNDS):
        for block in range(scales.shape[1]):
            here = slice(block * size, (block + 1) * size)
            within, part = moment[here, here], centred[:, block]
            power = ((part @ within) * part).sum(axis=1)
            wanted = scales[:, block] + (gradient[:, here] * part).sum(axis=1) / np.where(power > 0, power, 1)
            is_sound = (power > 0) & (wanted * scales[:, block] > 0) & (usable(wanted) == wanted)
            step = np.where(is_sound, wanted - scales[:, block], 0).astype(np.float32)
            scales[:, block] += step
            gradient -= (step[:, None] * part) @ moment[here]

            scale, zero = scales[:, block], zero_points[:, block].astype(np.float32)
            local = gradient[:, here].copy()
            change = np.zeros_like(local)
            for column in np.flatnonzero(diagonal[here] > 0):
                best = np.rint(part[:, column] + local[:, column] / (within[column, column] * scale))
                best = np.clip(best, -zero, grid.largest_code - zero)
                change[:, column] = (best - part[:, column]) * scale
                local -= np.outer(change[:, column], within[column])
                part[:, column] = best
            gradient -= change @ moment[here]
    codes[...] = centred + zero_points[..., None]


def _corrections(moment: NDArray[np.float64]) -> Floats:
    """Upper Cholesky factor [K, K] of the inverse of the damped moment: row j says who pays for column j's error."""
    size = len(moment)
    diagonal = np.diagonal(moment)
    damping = _DAMPING * float(diagonal.mean()) or 1.0
    # Inputs that were never seen get a diagonal of their own, so that the moment can be inverted.
    damped = moment + np.diag(np.where(diagonal <= 0, damping, 0) + damping)
    inverse = np.linalg.inv(damped)
    lower = np.linalg.cholesky((inverse + inverse.T) / 2 + 1e-12 * np.trace(inverse) / size * np.eye(size))
    return np.ascontiguousarray(lower.T, dtype=np.float32)


def _importance(moment: NDArray[np.float64]) -> Floats:
    """[K] how much an error in a column counts when scales are chosen; never nothing, what was not seen may come."""
    diagonal = np.maximum(np.diagonal(moment), 0)
    mean = float(diagonal.mean())
    return (diagonal / mean + _DAMPING).astype(np.float32) if mean else np.ones(len(moment), np.float32)
