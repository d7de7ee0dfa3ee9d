"""Codes, scales and zero points: every method on every grid within its bound, and packed as the kernels read them."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from codegen_edge.errors import InvalidInputError
from codegen_edge.quantization.blockwise import Grid, QuantizedMatrix, blocks_of
from codegen_edge.quantization.methods import METHODS, gptq

GRIDS = [
    Grid(bits=bits, block_size=block_size, is_symmetric=is_symmetric)
    for bits, block_size, is_symmetric in product((4, 8), (16, 32, 128), (True, False))
]


def matrix(rows: int, columns: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def moment(columns: int, seed: int = 1) -> NDArray[np.float32]:
    """Second moment of correlated inputs, some of them much larger than the others."""
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((4 * columns, columns)) @ rng.standard_normal((columns, columns))
    inputs *= rng.lognormal(size=columns)
    return (inputs.T @ inputs / len(inputs)).astype(np.float32)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("method", ["round"])
def test_rounding_is_within_half_a_step_everywhere(method: str, grid: Grid) -> None:
    weights = matrix(7, 300)
    quantized = METHODS.find(method)(grid, None)(weights)
    error = np.abs(quantized.dequantized() - weights)
    half_steps = np.repeat(np.abs(quantized.scales) / 2, grid.block_size, axis=1)[:, :300]
    # A symmetric grid has no code for the far end of the other sign, an asymmetric one rounds its zero point, too.
    assert (error <= half_steps * (2 + 1e-5)).all()
    assert np.mean(error <= half_steps * (1 + 1e-5)) > 0.98


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_padded_columns_and_zero_blocks_come_back_exactly(method: str, grid: Grid) -> None:
    weights = matrix(3, 200)
    weights[1] = 0
    quantized = METHODS.find(method)(grid, moment(200))(weights)
    assert quantized.dequantized().shape == weights.shape
    np.testing.assert_array_equal(quantized.dequantized()[1], 0)
    assert np.isfinite(quantized.dequantized()).all()
    assert quantized.codes.shape == (3, -(-200 // grid.block_size), grid.block_size)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_search_never_has_more_error_than_rounding(grid: Grid) -> None:
    weights = matrix(20, 256)
    weights[:10, 5] *= 20  # an outlier in each of these rows
    errors = {
        method: ((METHODS.find(method)(grid, None)(weights).dequantized() - weights) ** 2).sum(axis=1)
        for method in ("round", "search")
    }
    assert (errors["search"] <= errors["round"] * (1 + 1e-5)).all()
    if grid.bits == 4:
        assert errors["search"][10:].sum() < 0.97 * errors["round"][10:].sum()


@pytest.mark.parametrize("is_symmetric", [True, False])
@pytest.mark.parametrize("block_size", [32, 128])
def test_gptq_lowers_the_error_of_the_outputs(block_size: int, is_symmetric: bool) -> None:
    weights, second_moment = matrix(64, 256), moment(256)
    grid = Grid(bits=4, block_size=block_size, is_symmetric=is_symmetric)
    errors = {}
    for method in METHODS:
        difference = METHODS.find(method)(grid, second_moment)(weights).dequantized() - weights
        errors[method] = float(np.einsum("nk,kl,nl->", difference, second_moment, difference, optimize=True))
    assert errors["gptq"] < 0.5 * errors["search"]
    assert errors["gptq"] < 0.5 * errors["round"]


@pytest.mark.parametrize("is_symmetric", [True, False])
def test_refinement_lowers_gptqs_own_error_in_every_row(is_symmetric: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, second_moment = matrix(32, 256), moment(256)
    weights[3] = 0
    grid = Grid(bits=4, block_size=64, is_symmetric=is_symmetric)
    errors = []
    for rounds in (0, 1, 2):
        monkeypatch.setattr(gptq, "_ROUNDS", rounds)
        quantized = METHODS.find("gptq")(grid, second_moment)(weights)
        assert quantized.codes.max() <= grid.largest_code
        difference = quantized.dequantized() - weights
        errors.append(np.einsum("nk,kl,nl->n", difference, second_moment, difference, optimize=True))
    assert (errors[1] <= errors[0] * (1 + 1e-3)).all()
    assert (errors[2] <= errors[1] * (1 + 1e-3)).all()
    assert errors[2].sum() < 0.95 * errors[0].sum()


def test_gptq_lives_with_inputs_that_were_never_seen() -> None:
    second_moment = moment(64)
    second_moment[10:20] = second_moment[:, 10:20] = 0
    grid = Grid(bits=4, block_size=32)
    for given_moment in (second_moment, np.zeros_like(second_moment)):
        quantized = METHODS.find("gptq")(grid, given_moment)(matrix(8, 64))
        assert np.abs(quantized.dequantized() - matrix(8, 64)).max() < 3  # bounded, whatever others made up for
    with pytest.raises(InvalidInputError, match="needs calibration"):
        METHODS.find("gptq")(grid, None)(matrix(8, 64))


@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 70),
    bits=st.sampled_from([4, 8]),
    is_symmetric=st.booleans(),
    exponent=st.integers(-44, 30),
    seed=st.integers(0, 1000),
)
def test_any_finite_matrix_gives_finite_weights(
    rows: int, columns: int, bits: int, is_symmetric: bool, exponent: int, seed: int
) -> None:
    """Denormal, tiny and huge blocks: no NaN, no infinity, error within a step of the block's largest weight."""
    weights = (matrix(rows, columns, seed) * np.float64(10.0) ** exponent).astype(np.float32)
    grid = Grid(bits=bits, block_size=16, is_symmetric=is_symmetric)
    for method in ("round", "search"):
        dequantized = METHODS.find(method)(grid, None)(weights).dequantized()
        assert np.isfinite(dequantized).all()
        largest = np.abs(blocks_of(weights, 16)).max(axis=-1).max()
        # Blocks whose scale would be below 1e-30 become zeros: at most 255 such steps are lost.
        assert np.abs(dequantized - weights).max() <= max(largest / 3, 255e-30)


def test_packing_puts_the_first_of_two_codes_into_the_lower_half() -> None:
    codes = np.arange(32, dtype=np.uint8).reshape(1, 2, 16) % 16
    quantized = QuantizedMatrix(
        grid=Grid(bits=4, block_size=16, is_symmetric=False),
        columns=32,
        codes=codes,
        scales=np.ones((1, 2), np.float32),
        zero_points=np.array([[3, 5]], np.uint8),
    )
    np.testing.assert_array_equal(quantized.packed_codes()[0, 0], [0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE])
    np.testing.assert_array_equal(quantized.packed_zero_points(), [[0x53]])
    np.testing.assert_array_equal(quantized.dequantized()[0, :3], [-3, -2, -1])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bits": 5, "block_size": 32}, "bits must be 4 or 8, got 5"),
        ({"bits": 4, "block_size": 24}, "block_size must be a power of two >= 16, got 24"),
        ({"bits": 4, "block_size": 8}, "got 8"),
        ({"bits": 4, "block_size": -16}, "got -16"),
    ],
)
def test_bad_grids_are_named(fields: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Grid(**fields)  # type: ignore[arg-type]


def test_unknown_method_is_named() -> None:
    with pytest.raises(InvalidInputError, match="no method 'hqq'"):
        METHODS.find("hqq")
