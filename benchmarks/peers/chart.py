"""The systems as one picture, drawn by the chart of `codegen-edge bench`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.harness import Rounds, Spread
from benchmarks.peers.measuring import COLD_START, first_token, step
from benchmarks.peers.workload import Workload
from codegen_edge.evaluation.speed.chart import speed_chart
from codegen_edge.evaluation.speed.results import BundleSpeed, Roofline, SpeedResult
from codegen_edge.evaluation.speed.settings import SpeedSettings
from codegen_edge.evaluation.speed.surroundings import Load

ROOFLINE_ROUNDS = 2


def peers_chart(result: Mapping[str, Any]) -> str:
    """Decode and prefill of each group's first workload, as an SVG document."""
    speeds: dict[str, BundleSpeed] = {}
    workload = None
    for group in result["groups"].values():
        workload = Workload.parse(group["workloads"][0])
        for name, row in group["rows"].items():
            if name not in speeds and not row["void"] and {step(workload), COLD_START} <= row["times"].keys():
                speeds[name] = _speed(name, row, **_rates(row, workload))
    assert workload is not None, "a result has a group"
    settings = SpeedSettings(
        prompt_tokens=workload.prompt_tokens,
        new_tokens=workload.new_tokens,
        batch=workload.batch,
        rounds=result["rounds"],
        threads=result["threads"],
    )
    return _drawn(result, settings, speeds.values(), "another program's model is not counted")


def roofline_chart(result: Mapping[str, Any]) -> str:
    """Our bundles' speed and shares of the machine's limits, as an SVG document."""
    settings = SpeedSettings(rounds=ROOFLINE_ROUNDS, threads=result["threads"])
    speeds = []
    for precision, found in result["roofline"].items():
        shares: dict[str, Any] = {
            key: Spread(**each) if isinstance(each, dict) else each for key, each in found["roofline"].items()
        }
        rates: dict[str, Any] = {key: Spread(**each) for key, each in found.items() if key != "roofline"}
        row = {"precision": precision, "file_bytes": 0}
        speeds.append(_speed(f"codegen-edge {precision}", row, roofline=Roofline(**shares), **rates))
    return _drawn(result, settings, speeds, "")


def _drawn(result: Mapping[str, Any], settings: SpeedSettings, speeds: Iterable[BundleSpeed], without: str) -> str:
    return speed_chart(
        SpeedResult(
            settings=settings,
            machine={**result["machine"], "threads": result["threads"]},
            load=Load(average_before=None, average_after=None, waiting=None),
            bundles=tuple(speeds),
            again=(),
            rounds=Rounds({}, {}),
            limits=None,
            no_roofline=without,
        )
    )


def _rates(row: Mapping[str, Any], workload: Workload) -> dict[str, Any]:
    times = row["times"]
    prompt_tokens = workload.batch * workload.prompt_tokens
    return {
        "prefill_tokens_per_second": Spread.of([prompt_tokens / seconds for seconds in times[first_token(workload)]]),
        "decode_tokens_per_second": Spread.of([workload.batch / seconds for seconds in times[step(workload)]]),
    }


def _speed(name: str, row: Mapping[str, Any], *, roofline: Roofline | None = None, **rates: Spread) -> BundleSpeed:
    """Of a row what the chart draws; the rest is 0."""
    none = Spread(0.0, 0.0, 0.0)
    return BundleSpeed(
        label=name,
        precision=row["precision"],
        file_bytes=row["file_bytes"] or 0,
        import_s=none,
        open_s=none,
        load_s=none,
        cold_start_s=none,
        peak_rss_bytes=None,
        first_token_s=none,
        step_ms={},
        roofline=roofline,
        rounds=(),
        **rates,
    )
