"""Bundles of every form that is counted, and measurements that no clock made."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from codegen_edge.bundle import Bundle
from codegen_edge.evaluation.speed.measurement import MeasuredLimits, Measurement
from codegen_edge.quantization import QuantizeOptions, quantize_bundle

MakeMeasurement = Callable[..., Measurement]


@pytest.fixture(scope="session")
def bundles_by_precision(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """The tiny bundle in every precision. Read only."""
    folder = tmp_path_factory.mktemp("speed")
    made = {"fp32": tiny_bundle}
    for scheme in ("int8", "int4", "int8-dynamic"):
        options = QuantizeOptions(scheme=scheme, method="round")
        made[scheme], _ = quantize_bundle(tiny_bundle, folder / scheme, options)
    return made


@pytest.fixture
def make_measurement() -> MakeMeasurement:
    """A measurement of a step time; everything else is derived of it, every process has another number."""
    numbers: Iterator[int] = itertools.count(1)

    def make(
        step_s: float = 0.02,
        *,
        prefill_s: float = 0.5,
        peak_rss_bytes: int = 400_000_000,
        limits: MeasuredLimits | None = None,
        steps: int = 10,
    ) -> Measurement:
        return Measurement(
            pid=next(numbers),
            import_s=0.3,
            open_s=1.0,
            cold_start_s=2.0,
            peak_rss_bytes=peak_rss_bytes,
            prefill_s=prefill_s,
            first_token_s=prefill_s + 0.001,
            steps_s=(step_s,) * steps,
            limits=limits,
        )

    return make
