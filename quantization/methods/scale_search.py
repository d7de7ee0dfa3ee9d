"""Error-minimizing scales: a block may clip its largest weight where that lowers the squared error of all.

Candidates shrink the plain span. Each is judged by the least error that any scale gives its codes: with w = s (c + r),
c the codes around zero and r what rounding left over, the error of a scale s (1 + d) is s² |r - d c|², least at
d = <r, c> / <c, c>. The best one's codes and scale are then fitted to each other in turns, which can only lower the
error. In this form small differences are sums of small numbers, where those of |w - s c|² would drown in float32.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from codegen_edge.ort_session import default_threads
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

_SHRINKAGES = {4: np.linspace(0.60, 1.0, 17, dtype=np.float32), 8: np.linspace(0.92, 1.0, 5, dtype=np.float32)}
_NEARBY = np.array([0.97, 0.985, 1.015, 1.03], np.float32)  # what is tried around the best candidate
_REFITS = 3
_WEIGHTS_AT_ONCE = 1 << 16  # what is made of them stays in a core's cache


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
    rows = max(1, _WEIGHTS_AT_ONCE // weights.shape[1])
    pieces = [weights[row : row + rows] for row in range(0, len(weights), rows)]
    with ThreadPoolExecutor(default_threads()) as pool:  # numpy holds no lock while it computes
        parts = list(pool.map(partial(_quantize_rows, grid=grid, importance=importance), pieces))
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
    shape, size = blocks.shape[:-1], blocks.shape[-1]
    flat = blocks.reshape(-1, size)
    magnitude = usable(np.abs(flat).max(axis=-1))
    flat = flat / magnitude[:, None]
    scales, zero_points = plain_scales(flat, grid)
    if importance is not None:
        importance = np.ascontiguousarray(np.broadcast_to(importance, blocks.shape).reshape(-1, size).T)
    search = _Search(grid, np.ascontiguousarray(flat.T), importance)
    for scale, zero in _candidates(flat, scales, zero_points, grid):
        search.take(scale, zero)
    for factor in (*_NEARBY, *[np.float32(1)] * _REFITS):
        search.take(search.scales * factor, search.zero_points)
    found = usable(search.scales * magnitude).reshape(shape)
    if grid.is_symmetric:
        return found, float(grid.middle)
    return found, search.zero_points.reshape(shape)


def _candidates(
    blocks: Floats, scales: Floats, zero_points: Floats | float, grid: Grid
) -> list[tuple[Floats, Floats | np.float32]]:
    """Scales [N] and zero points of the plain span and of narrower ones."""
    shrinkages = _SHRINKAGES[grid.bits][::-1]
    if isinstance(zero_points, float):
        signs = (1, -1) if grid.has_signed_scales else (1,)
        zero = np.float32(zero_points)
        return [(scales * (shrinkage * np.float32(sign)), zero) for shrinkage in shrinkages for sign in signs]
    low, high = np.minimum(blocks.min(axis=-1), 0), np.maximum(blocks.max(axis=-1), 0)
    narrowed = [usable((high - low) * shrinkage / np.float32(grid.largest_code)) for shrinkage in shrinkages]
    zeros = [
        np.clip(np.rint(-low * shrinkage / scale), 0, grid.largest_code)
        for scale, shrinkage in zip(narrowed, shrinkages, strict=True)
    ]
    return list(zip(narrowed, zeros, strict=True))


class _Search:
    """The best scales so far of N blocks, and what is needed to judge others.

    Blocks lie in columns here: what is done to all of a block's weights is then done to many blocks at once.

    Args:
        grid: of the codes.
        blocks: [block_size, N], of magnitudes up to 1.
        importance: [block_size, N] how much a weight's error counts; None counts all alike.

    Attributes:
        scales: [N], fitted to their codes.
        zero_points: [N].
    """

    def __init__(self, grid: Grid, blocks: Floats, importance: Floats | None) -> None:
        self._grid, self._blocks, self._importance = grid, blocks, importance
        count = blocks.shape[1]
        self.scales, self.zero_points = np.ones(count, np.float32), np.zeros(count, np.float32)
        self._errors = np.full(count, np.inf, np.float32)
        self._left_over, self._codes = np.empty_like(blocks), np.empty_like(blocks)
        self._weighted = self._codes if importance is None else np.empty_like(blocks)

    def take(self, scales: Floats, zero_points: Floats | np.float32) -> None:
        """Fit scales [N] to the codes that they give, and keep those with a smaller error than before."""
        left_over, codes, weighted = self._left_over, self._codes, self._weighted
        np.multiply(self._blocks, 1 / scales, out=left_over)
        np.rint(left_over, out=codes)
        np.clip(codes, -zero_points, self._grid.largest_code - zero_points, out=codes)
        left_over -= codes
        if self._importance is not None:
            np.multiply(codes, self._importance, out=weighted)
        power = np.einsum("kn,kn->n", weighted, codes)
        tilt = np.einsum("kn,kn->n", weighted, left_over)
        if self._importance is not None:
            np.multiply(left_over, self._importance, out=weighted)
            rest = np.einsum("kn,kn->n", weighted, left_over)
        else:
            rest = np.einsum("kn,kn->n", left_over, left_over)
        change = tilt / np.where(power > 0, power, 1)
        errors = np.square(scales) * (rest - change * tilt)
        is_better = errors < self._errors
        np.copyto(self._errors, errors, where=is_better)
        np.copyto(self.scales, usable(scales * (1 + change)), where=is_better)
        np.copyto(self.zero_points, zero_points, where=is_better)
