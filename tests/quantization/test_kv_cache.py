"""The int8 KV cache, through every way that a sequence can be fed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from codegen_edge.bundle import Bundle
from codegen_edge.errors import InvalidInputError, NumericsError
from codegen_edge.exporter.random_checkpoint import SHAPES, ModelShape
from codegen_edge.quantization import QuantizeOptions, quantize_bundle
from codegen_edge.quantization import calibration as calibration_module
from codegen_edge.quantization.calibration import Calibration, most_tokens
from codegen_edge.quantization.kv_cache import folded, scales_of
from codegen_edge.runtimes import open_runtime

RNG = np.random.default_rng(0)
DOCUMENTS = [RNG.integers(0, 300, 120) for _ in range(10)]
TOKEN_IDS = RNG.integers(0, 300, (1, 60))


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("kv") / "int8-cache"
    options = QuantizeOptions(scheme="fp16", kv_cache="int8")
    return quantize_bundle(tiny_bundle, out, options, calibration_documents=DOCUMENTS)[0]


def logits_of(bundle: Bundle, chunks: list[int]) -> NDArray[np.float32]:
    runtime = open_runtime("cpu", bundle)
    cache = runtime.new_cache(1, 100)
    parts, start = [], 0
    for count in chunks:
        parts.append(runtime.step(TOKEN_IDS[:, start : start + count], cache, all_logits=True)[0])
        start += count
    runtime.close()
    return np.concatenate(parts)


@pytest.mark.parametrize("chunks", [[60], [40, *[1] * 20], [40, 5, 5, 10], [1] * 60], ids=str)
def test_cached_path_is_close_to_the_float_cache(chunks: list[int], bundle: Bundle, tiny_bundle: Bundle) -> None:
    expected = logits_of(tiny_bundle, [60])
    error = np.abs(logits_of(bundle, chunks) - expected).mean() / expected.std()
    assert error < 0.02


def test_cache_is_int8_and_a_quarter_of_the_size(bundle: Bundle, tiny_bundle: Bundle) -> None:
    caches = [open_runtime("cpu", each).new_cache(2, 50) for each in (bundle, tiny_bundle)]
    assert bundle.manifest.kv_cache == "int8"
    sizes = [sum(buffer.values.nbytes for buffer in cache.buffers.values()) for cache in caches]  # type: ignore[attr-defined]
    assert sizes[0] * 4 == sizes[1]


def test_rows_of_a_batch_equal_single_runs_and_survive_rewinding(bundle: Bundle) -> None:
    runtime = open_runtime("cpu", bundle)
    cache = runtime.new_cache(2, 100)
    runtime.step(np.repeat(TOKEN_IDS[:, :30], 2, axis=0), cache)
    first = runtime.step(np.repeat(TOKEN_IDS[:, 30:31], 2, axis=0), cache)
    for row in range(2):
        cache.rewind(row, 30)
    again = runtime.step(np.repeat(TOKEN_IDS[:, 30:31], 2, axis=0), cache)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(first[0], logits_of(bundle, [30, 1])[-1], atol=1e-5)


def test_scales_leave_room_and_are_never_zero() -> None:
    np.testing.assert_allclose(scales_of(np.array([[0.0, 127.0]], np.float32)), [[1e-6, 1.1]])
    with pytest.raises(NumericsError, match="NaN or infinity"):
        scales_of(np.array([[np.nan]], np.float32))


def test_folding_changes_values_only_and_cancels_out() -> None:
    extremes = {(0, "key"): np.ones((2, 4), np.float32), (0, "value"): RNG.random((2, 4)).astype(np.float32) + 1}
    weights = {
        "transformer.h.0.attn.qkv_proj.weight": RNG.random((8, 24)).astype(np.float32),
        "transformer.h.0.attn.out_proj.weight": RNG.random((8, 8)).astype(np.float32),
        "transformer.h.0.mlp.fc_in.weight": RNG.random((8, 32)).astype(np.float32),
        "transformer.h.1.attn.out_proj.weight": RNG.random((8, 8)).astype(np.float32),
    }
    read = folded(weights.__getitem__, extremes)  # type: ignore[arg-type]
    qkv, out, fc_in, other = (read(name) for name in weights)
    old = list(weights.values())
    np.testing.assert_array_equal(qkv[:, :16], old[0][:, :16])
    np.testing.assert_allclose(qkv[:, 16:] @ out, old[0][:, 16:] @ old[1], rtol=1e-5)
    assert not np.allclose(qkv[:, 16:], old[0][:, 16:])
    np.testing.assert_array_equal(fc_in, old[2])
    np.testing.assert_array_equal(other, old[3])


def test_extremes_are_those_of_the_cache(tiny_bundle: Bundle) -> None:
    extremes = Calibration(tiny_bundle, DOCUMENTS[:1]).cache_extremes()
    runtime = open_runtime("cpu", tiny_bundle)
    cache = runtime.new_cache(1, 128)
    runtime.step(DOCUMENTS[0][None], cache)
    for place, buffer in cache.buffers.items():  # type: ignore[attr-defined]
        np.testing.assert_allclose(extremes[place], np.abs(buffer.values[0]).max(axis=1), rtol=1e-5)


def test_second_moment_is_that_of_the_inputs(tiny_bundle: Bundle) -> None:
    calibration = Calibration(tiny_bundle, DOCUMENTS[:2])
    moments = {
        name: calibration.second_moment(f"transformer.h.0.{name}.weight")
        for name in ("attn.qkv_proj", "mlp.fc_in", "mlp.fc_out")
    }
    assert calibration.second_moment("transformer.wte.weight") is None
    assert calibration.moment_tokens == 240
    np.testing.assert_array_equal(moments["attn.qkv_proj"], moments["mlp.fc_in"])  # one input feeds both
    assert moments["mlp.fc_out"] is not None
    assert moments["mlp.fc_out"].shape == (256, 256)
    eigenvalues = np.linalg.eigvalsh(moments["mlp.fc_out"].astype(np.float64))
    assert eigenvalues.min() > -1e-4


@pytest.mark.parametrize(
    ("model", "num_tokens"),
    [("5M", 131_072), ("350M", 4 * 4096), ("2B", 4 * 10_240), ("16B", 4 * 24_576)],
)
def test_larger_models_read_as_much_text_as_their_matrices_need(model: str, num_tokens: int) -> None:
    shape = SHAPES[model] if model in SHAPES else ModelShape(n_layer=4, n_embd=256, n_head=4, rotary_dim=32)
    width = shape.n_embd
    sizes = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)] * shape.n_layer
    matrices: Any = [SimpleNamespace(rows=rows, columns=columns) for columns, rows in [*sizes, (width, 51_200)]]
    assert most_tokens(matrices) == num_tokens


def test_second_moments_of_a_long_text_are_of_places_all_over_it(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [np.full(100, number, np.int64) for number in range(1, 10)]
    expected = Calibration(tiny_bundle, [documents[0], documents[4], documents[8]])
    monkeypatch.setattr(calibration_module, "most_tokens", lambda _: 300)
    calibration = Calibration(tiny_bundle, documents)
    found = calibration.second_moment("lm_head.weight")
    assert calibration.moment_tokens == 300
    np.testing.assert_array_equal(found, expected.second_moment("lm_head.weight"))
    # The largest magnitude may stand anywhere: extremes are of all of it.
    whole = calibration.cache_extremes()
    assert any((whole[place] > extreme).any() for place, extreme in expected.cache_extremes().items())


def test_unknown_cache_dtype_and_missing_text_are_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="kv_cache must be one of float, int8, got 'int4'"):
        QuantizeOptions(scheme="int8", kv_cache="int4")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="no tokens"):
        quantize_bundle(tiny_bundle, tmp_path / "out", QuantizeOptions(scheme="int8", kv_cache="int8"))
    assert list(tmp_path.iterdir()) == []
