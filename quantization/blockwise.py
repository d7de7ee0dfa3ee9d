"""Blocks of a matrix as small integers: scales, zero points, codes, and how onnxruntime packs them.

A matrix is [N, K] here, one row an output; a block is `block_size` neighbours of a row. What a code stands for is
`(code - zero_point) * scale`. Without zero points of its own a matrix has 2^(bits-1) everywhere, as MatMulNBits and
GatherBlockQuantized assume
(https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codegen_edge.errors import InvalidInputError

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]

_WEIGHTS_AT_ONCE = 1 << 21
_LEAST_BLOCK = 16  # of MatMulNBits
# A block whose scale would be below this is stored as zeros: the inverse of a denormal scale is infinite.
_LEAST_MAGNITUDE = 1e-30


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """How codes of a matrix are meant.

    Attributes:
        bits: 4 or 8.
        block_size: weights of a row that share a scale.
        is_symmetric: whether every zero point is 2^(bits-1), which is not stored then.
        has_signed_scales: whether a symmetric scale may be negative, so that the weight of the largest magnitude gets
            the end code of which there is one more; otherwise all scales are positive.
    """

    bits: int
    block_size: int
    is_symmetric: bool = True
    has_signed_scales: bool = True

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise InvalidInputError(f"bits must be 4 or 8, got {self.bits}")
        if self.block_size < _LEAST_BLOCK or self.block_size & (self.block_size - 1):
            raise InvalidInputError(f"block_size must be a power of two >= {_LEAST_BLOCK}, got {self.block_size}")

    @property
    def largest_code(self) -> int:
        """Codes are 0 … this."""
        return (1 << self.bits) - 1

    @property
    def middle(self) -> int:
        """The zero point of a symmetric grid."""
        return 1 << (self.bits - 1)

    def num_blocks(self, columns: int) -> int:
        """Blocks of a row; the last may be padded."""
        return -(-columns // self.block_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedMatrix:
    """A matrix [N, K] in codes.

    Attributes:
        grid: how they are meant.
        columns: K; codes beyond it are padding, which stands for zero.
        codes: [N, blocks, block_size] uint8, one code an element.
        scales: [N, blocks] float32.
        zero_points: [N, blocks] uint8, or None for a symmetric grid.
    """

    grid: Grid
    columns: int
    codes: Codes
    scales: Floats
    zero_points: Codes | None

    def dequantized(self) -> Floats:
        """[N, K] float32, what the codes stand for."""
        zero = (
            np.float32(self.grid.middle) if self.zero_points is None else self.zero_points[..., None].astype(np.float32)
        )
        weights = (self.codes.astype(np.float32) - zero) * self.scales[..., None]
        return weights.reshape(len(weights), -1)[:, : self.columns]

    def packed_codes(self) -> Codes:
        """[N, blocks, block_size * bits / 8] uint8; of two codes in a byte the first is the lower half."""
        return _packed(self.codes) if self.grid.bits == 4 else self.codes

    def packed_zero_points(self) -> Codes:
        """[N, ceil(blocks * bits / 8)] uint8; those of a symmetric grid as well."""
        zero_points = self.zero_points
        if zero_points is None:
            zero_points = np.full(self.scales.shape, self.grid.middle, np.uint8)
        if self.grid.bits == 8:
            return zero_points
        odd = zero_points.shape[1] % 2
        return _packed(np.pad(zero_points, ((0, 0), (0, odd)), constant_values=self.grid.middle))


def _packed(codes: Codes) -> Codes:
    return np.ascontiguousarray(codes[..., 0::2] | (codes[..., 1::2] << 4))


def row_pieces(rows: int, columns: int) -> Iterator[slice]:
    """All rows of a matrix, as many at once as bound the memory of what is made of them."""
    step = max(1, _WEIGHTS_AT_ONCE // columns)
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))


def blocks_of(weights: Floats, block_size: int) -> Floats:
    """[N, K] -> [N, blocks, block_size], the last block of a row padded with zeros."""
    rows, columns = weights.shape
    padded = np.pad(weights, ((0, 0), (0, -columns % block_size)))
    return padded.reshape(rows, -1, block_size)


def nearest_codes(blocks: Floats, scales: Floats, zero_points: Floats | float, grid: Grid) -> Floats:
    """The codes nearest to `blocks` [..., block_size] under scales and zero points [...], as floats."""
    zero = zero_points if isinstance(zero_points, float) else zero_points[..., None]
    codes: Floats = np.rint(blocks / scales[..., None])
    codes += zero
    np.clip(codes, 0, grid.largest_code, out=codes)
    return codes


def plain_scales(blocks: Floats, grid: Grid) -> tuple[Floats, Floats | float]:
    """Scales and zero points [...] that span every block [..., block_size], as plain rounding takes them.

    On a symmetric grid the weight of the largest magnitude gets the end code, of which there is one more on the
    negative side: where scales are signed, the sign is chosen so that it lies there.
    """
    if grid.is_symmetric:
        place = np.abs(blocks).argmax(axis=-1, keepdims=True)
        largest: Floats = np.take_along_axis(blocks, place, axis=-1)[..., 0]
        end = -grid.middle
        if not grid.has_signed_scales:
            largest, end = np.absolute(largest, dtype=np.float32), grid.middle - 1
        return usable(largest / np.float32(end)), float(grid.middle)
    low = np.minimum(blocks.min(axis=-1), 0)
    high = np.maximum(blocks.max(axis=-1), 0)
    scales = usable((high - low) / np.float32(grid.largest_code))
    zero_points = np.clip(np.rint(-low / scales), 0, grid.largest_code)
    return scales, zero_points


def usable(scales: Floats) -> Floats:
    """`scales`, with 1 where a block is all zeros or so near that its scale would have no inverse."""
    return np.where(np.abs(scales) < _LEAST_MAGNITUDE, np.float32(1), scales).astype(np.float32)
