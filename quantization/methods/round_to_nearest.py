"""Plain rounding: every block spans its largest weight, every weight takes the nearest code."""

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
)
from codegen_edge.quantization.methods import QuantizeRows


def prepare(grid: Grid, second_moment: NDArray[np.float32] | None = None) -> QuantizeRows:
    """Rounding on `grid`; calibration is not looked at."""
    return partial(_quantize, grid)


def _quantize(grid: Grid, weights: Floats) -> QuantizedMatrix:
    blocks = blocks_of(weights, grid.block_size)
    scales, zero_points = plain_scales(blocks, grid)
    codes = nearest_codes(blocks, scales, zero_points, grid)
    return QuantizedMatrix(
        grid=grid,
        columns=weights.shape[1],
        codes=codes.astype(np.uint8),
        scales=scales,
        zero_points=None if isinstance(zero_points, float) else zero_points.astype(np.uint8),
    )
