"""Error-minimizing scales: a block may clip its largest weight where that lowers the squared error of all.

Candidates shrink the plain span; the best one's scale is then fitted to its codes by least squares, and the codes to
the new scale, which can only lower the error.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from codegen_edge.quantization.blockwise import (
    Floats,
    Grid,
    QuantizedMatrix,
    blocks_of,
    nearest_codes,
    plain_scales,
    usable,
)
from codegen_edge.quantization.methods import QuantizeRows

_SHRINKAGES = {4: np.linspace(0.60, 1.0, 17), 8: np.linspace(0.92, 1.0, 5)}
_REFITS = 2
_ROWS_AT_ONCE = 256  # bounds the memory of the candidates


def prepare(grid: Grid, second_moment: NDArray[np.float32] | None = None) -> QuantizeRows:
    """The scales of least squared error on `grid`.

    With calibration a column's error counts as much as its inputs are large: the diagonal of `second_moment`.
    """
    importance = None
    if second_moment is not None:
        diagonal = np.maximum(np.diagonal(second_moment), 0)[None]
        importance = blocks_of(diagonal.astype(np.float32), grid.block_size)
    return partial(_quantize, grid, importance)


def _quantize(grid: Grid, importance: Floats | None, weights: Floats) -> QuantizedMatrix:
    parts = [
        _quantize_rows(weights[row : row + _ROWS_AT_ONCE], grid, importance)
        for row in range(0, len(weights), _ROWS_AT_ONCE)
    ]
    codes, scales, zero_points = (np.concatenate(part) for part in zip(*parts, strict=True))
    return QuantizedMatrix(
        grid=grid,
        columns=weights.shape[1],
        codes=codes,
        scales=scales,
        zero_points=None if grid.is_symmetric else zero_points,
    )


def _quantize_rows(
    weights: Floats, grid: Grid, importance: Floats | None
) -> tuple[NDArray[np.uint8], Floats, NDArray[np.uint8]]:
    blocks = blocks_of(weights, grid.block_size)
    scales, zero_points = best_scales(blocks, grid, importance)
    codes = nearest_codes(blocks, scales, zero_points, grid).astype(np.uint8)
    return codes, scales, np.broadcast_to(np.asarray(zero_points, np.uint8), scales.shape)


def best_scales(blocks: Floats, grid: Grid, importance: Floats | None = None) -> tuple[Floats, Floats | float]:
    """Scales and zero points [...] of least (weighted) squared error for `blocks` [..., block_size].

    Blocks are searched at a magnitude of 1, so that no square leaves float32's range.
    """
    magnitude = usable(np.abs(blocks).max(axis=-1))
    scales, zero_points = _best_scales(blocks / magnitude[..., None], grid, importance)
    return usable(scales * magnitude), zero_points


def _best_scales(blocks: Floats, grid: Grid, importance: Floats | None) -> tuple[Floats, Floats | float]:
    scales, zero_points = plain_scales(blocks, grid)
    error = _error(blocks, scales, zero_points, grid, importance)
    best_scale, best_zero, best_error = scales, zero_points, error
    for shrinkage in _SHRINKAGES[grid.bits][:-1]:
        for first, zero in _candidates(blocks, scales, float(shrinkage), grid):
            candidate = first
            for refit in range(_REFITS + 1):
                error, codes = _error_and_codes(blocks, candidate, zero, grid, importance)
                is_better = error < best_error
                best_error = np.where(is_better, error, best_error)
                best_scale = np.where(is_better, candidate, best_scale)
                if not isinstance(zero, float):
                    best_zero = np.where(is_better, zero, best_zero)
                if refit < _REFITS:
                    candidate = _fitted(blocks, codes, zero, importance)
    return best_scale.astype(np.float32), best_zero


def _candidates(blocks: Floats, scales: Floats, shrinkage: float, grid: Grid) -> list[tuple[Floats, Floats | float]]:
    if grid.is_symmetric:
        shrunk = scales * np.float32(shrinkage)
        signs = (1, -1) if grid.has_signed_scales else (1,)
        return [(shrunk * np.float32(sign), float(grid.middle)) for sign in signs]
    low = np.minimum(blocks.min(axis=-1), 0) * np.float32(shrinkage)
    high = np.maximum(blocks.max(axis=-1), 0) * np.float32(shrinkage)
    narrowed = usable((high - low) / np.float32(grid.largest_code))
    return [(narrowed, np.clip(np.rint(-low / narrowed), 0, grid.largest_code))]


def _fitted(blocks: Floats, codes: Floats, zero: Floats | float, importance: Floats | None) -> Floats:
    """The scale of least squared error for given codes: <w, c> / <c, c>."""
    centred = codes - (zero if isinstance(zero, float) else zero[..., None])
    weighted = centred if importance is None else centred * importance
    power = (weighted * centred).sum(axis=-1)
    fitted = (weighted * blocks).sum(axis=-1) / np.where(power > 0, power, 1)
    return usable(fitted)


def _error(blocks: Floats, scales: Floats, zero: Floats | float, grid: Grid, importance: Floats | None) -> Floats:
    return _error_and_codes(blocks, scales, zero, grid, importance)[0]


def _error_and_codes(
    blocks: Floats, scales: Floats, zero: Floats | float, grid: Grid, importance: Floats | None
) -> tuple[Floats, Floats]:
    codes = nearest_codes(blocks, scales, zero, grid)
    centred = codes - (zero if isinstance(zero, float) else zero[..., None])
    difference = blocks - centred * scales[..., None]
    difference *= difference
    if importance is not None:
        difference *= importance
    return difference.sum(axis=-1), codes
