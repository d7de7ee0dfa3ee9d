"""The systems as one picture, drawn by the chart of `codegen-edge bench`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.harness import Rounds, Spread
from benchmarks.peers.measuring import COLD_START, LOAD, PEAK_RSS, first_token, step
from benchmarks.peers.workload import Workload
from codegen_edge.evaluation.speed.chart import speed_chart
from codegen_edge.evaluation.speed.results import BundleSpeed, SpeedResult
from codegen_edge.evaluation.speed.settings import SpeedSettings
from codegen_edge.evaluation.speed.surroundings import Load


def peers_chart(result: Mapping[str, Any]) -> str:
    """Decode and prefill of each group's first workload, as an SVG document."""
    speeds: dict[str, BundleSpeed] = {}
    workload = None
    for group in result["groups"].values():
        workload = Workload.parse(group["workloads"][0])
        for name, row in group["rows"].items():
            if name not in speeds and not row["void"] and {step(workload), COLD_START} <= row["times"].keys():
                speeds[name] = _speed(name, row, workload)
    assert workload is not None, "a result has a group"
    return speed_chart(
        SpeedResult(
            settings=SpeedSettings(
                prompt_tokens=workload.prompt_tokens,
                new_tokens=workload.new_tokens,
                batch=workload.batch,
                rounds=result["rounds"],
                threads=result["threads"],
            ),
            machine={**result["machine"], "threads": result["threads"]},
            load=Load(average_before=None, average_after=None, waiting=None),
            bundles=tuple(speeds.values()),
            again=(),
            rounds=Rounds({}, {}),
            limits=None,
            no_roofline="another program's model is not counted",
        )
    )


def _speed(name: str, row: Mapping[str, Any], workload: Workload) -> BundleSpeed:
    times = row["times"]
    first = times[first_token(workload)]
    prompt_tokens = workload.batch * workload.prompt_tokens
    memory = times.get(PEAK_RSS)
    none = Spread(0.0, 0.0, 0.0)
    return BundleSpeed(
        label=name,
        precision=row["precision"],
        file_bytes=row["file_bytes"] or 0,
        import_s=none,
        open_s=none,
        load_s=Spread.of(times[LOAD]),
        cold_start_s=Spread.of(times[COLD_START]),
        peak_rss_bytes=None if memory is None else Spread.of(memory),
        first_token_s=Spread.of(first),
        prefill_tokens_per_second=Spread.of([prompt_tokens / seconds for seconds in first]),
        decode_tokens_per_second=Spread.of([workload.batch / seconds for seconds in times[step(workload)]]),
        step_ms={},
        roofline=None,
        rounds=(),
    )
