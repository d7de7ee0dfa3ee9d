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
from codegen_edge.quantization.blockwise import Floats, Grid, QuantizedMatrix, usable
from codegen_edge.quantization.methods import QuantizeRows
from codegen_edge.quantization.methods.scale_search import best_scales

Doubles = NDArray[np.float64]

_DAMPING = 0.01  # of the mean of the diagonal, as in the paper
_SMALL = 128  # a matrix of this size is inverted as a whole
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
    # [N, K] -> [K, N]: what happens to a column happens to all rows at once.
    wanted = np.ascontiguousarray(np.pad(weights, ((0, 0), (0, len(importance) - columns))).T, np.float32)
    centred, scales, zero_points = _rounded(wanted, grid, corrections, importance)
    _refine(wanted, centred, scales, zero_points, grid, moment)
    codes = centred.reshape(-1, grid.block_size, rows) + zero_points[:, None]  # [blocks, block_size, N]
    return QuantizedMatrix(
        grid=grid,
        columns=columns,
        codes=np.ascontiguousarray(codes.transpose(2, 0, 1)).astype(np.uint8),
        scales=np.ascontiguousarray(scales.T),
        zero_points=None if grid.is_symmetric else np.ascontiguousarray(zero_points.T).astype(np.uint8),
    )


def _rounded(wanted: Floats, grid: Grid, corrections: Floats, importance: Floats) -> tuple[Floats, Floats, Floats]:
    """Algorithm 1 of the paper for weights [K, N]: centred codes [K, N], scales and zero points [blocks, N]."""
    remaining, centred = wanted.copy(), np.empty_like(wanted)
    scales = np.empty((len(wanted) // grid.block_size, wanted.shape[1]), np.float32)
    zero_points = np.empty_like(scales)
    for block in range(len(scales)):
        first, last = block * grid.block_size, (block + 1) * grid.block_size
        current = remaining[first:last]
        scale, zero = best_scales(current.T, grid, importance[first:last])
        lowest, highest = -np.float32(zero), grid.largest_code - np.float32(zero)
        errors = np.empty_like(current)
        for place, values in enumerate(current):
            column = first + place
            code = np.clip(np.rint(values / scale), lowest, highest, out=centred[column])
            factors = corrections[column, column:last, None]
            errors[place] = (values - code * scale) / factors[0]
            current[place + 1 :] -= factors[1:] * errors[place]
        remaining[last:] -= corrections[first:last, last:].T @ errors
        scales[block], zero_points[block] = scale, zero
    return centred, scales, zero_points


def _refine(wanted: Floats, centred: Floats, scales: Floats, zero_points: Floats, grid: Grid, moment: Floats) -> None:
    """Lower tr(D' H D) for D = weights - dequantized [K, N], H = `moment`, by changing codes and scales in place.

    With the gradient G = H D at hand, the best change of a code is G_j / (H_jj scale), rounded, and that of a block's
    scale <G, c> / <c, H c> for its centred codes c. A scale never becomes unusable or changes its sign.
    """
    size = grid.block_size
    missing = wanted - centred * np.repeat(scales, size, axis=0)
    diagonal = np.diagonal(moment)
    for _ in range(_ROUNDS):
        for block, zero in enumerate(zero_points):
            here = slice(block * size, (block + 1) * size)
            within, part = moment[here, here], centred[here]
            gradient = moment[here] @ missing
            scale = _better_scale(scales[block], part, gradient, within)
            gradient -= within @ (part * (scale - scales[block]))
            lowest, highest = -zero, grid.largest_code - zero
            for column in np.flatnonzero(diagonal[here] > 0):
                best = np.rint(part[column] + gradient[column] / (within[column, column] * scale))
                np.clip(best, lowest, highest, out=best)
                gradient[column + 1 :] -= within[column + 1 :, column, None] * ((best - part[column]) * scale)
                part[column] = best
            scales[block] = scale
            np.subtract(wanted[here], part * scale, out=missing[here])


def _better_scale(scale: Floats, part: Floats, gradient: Floats, within: Floats) -> Floats:
    """The best scale [N] of a block for its centred codes `part` [block_size, N]; `scale` where that is not sound."""
    power = ((within @ part) * part).sum(axis=0)
    better = scale + (gradient * part).sum(axis=0) / np.where(power > 0, power, 1)
    is_sound = (power > 0) & (better * scale > 0) & (usable(better) == better)
    return np.where(is_sound, better, scale).astype(np.float32)


def _corrections(moment: Doubles) -> Floats:
    """Upper Cholesky factor [K, K] of the inverse of the damped moment: row j says who pays for column j's error.

    With the moment's own factor from the last column to the first, H = R R' and R upper, it is the inverse of R.
    """
    diagonal = np.diagonal(moment)
    damping = _DAMPING * float(diagonal.mean()) or 1.0
    # Inputs that were never seen get a diagonal of their own, so that the moment has a factor.
    damped = moment + np.diag(np.where(diagonal <= 0, damping, 0) + damping)
    upper: Doubles = np.ascontiguousarray(np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1])
    return np.ascontiguousarray(_inverse_of_upper(upper), dtype=np.float32)


def _inverse_of_upper(matrix: Doubles) -> Doubles:
    """The inverse of an upper triangular matrix, by halves: most of it is products of matrices."""
    size = len(matrix)
    if size <= _SMALL:
        return np.triu(np.linalg.inv(matrix))
    half = size // 2
    inverse = np.zeros_like(matrix)
    inverse[:half, :half] = _inverse_of_upper(matrix[:half, :half])
    inverse[half:, half:] = _inverse_of_upper(matrix[half:, half:])
    inverse[:half, half:] = -inverse[:half, :half] @ matrix[:half, half:] @ inverse[half:, half:]
    return inverse


def _importance(moment: Doubles) -> Floats:
    """[K] how much an error in a column counts when scales are chosen; never nothing, what was not seen may come."""
    diagonal = np.maximum(np.diagonal(moment), 0)
    mean = float(diagonal.mean())
    return (diagonal / mean + _DAMPING).astype(np.float32) if mean else np.ones(len(moment), np.float32)
