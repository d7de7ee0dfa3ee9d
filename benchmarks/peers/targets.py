"""What we want to reach, as ratios over the best peer of a precision in the same run, and whether we did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.harness import Spread
from benchmarks.peers.measuring import COLD_START, LOAD, PEAK_RSS, first_token, step
from benchmarks.peers.noise import too_noisy
from benchmarks.peers.workload import Workload

Group = Mapping[str, Any]
REACHED, MISSED, NOT_MEASURED, TOO_NOISY = "reached", "missed", "not measured", "too noisy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A target and what became of it.

    Attributes:
        what: is compared.
        ours: the system of ours.
        against: whom it is compared with, or "".
        wanted: bound of the ratio.
        is_at_most: whether less is better; else more.
        ratio: as measured; None where it was not.
        verdict: "reached" or "missed" by the median; "too noisy" where the machine was and rounds disagree; or "not
            measured".
        why: the machine was too noisy, or nothing was measured.
    """

    what: str
    ours: str
    wanted: float
    is_at_most: bool = False
    against: str = ""
    ratio: Spread | None = None
    verdict: str = NOT_MEASURED
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Race:
    """Ours against the best of some peers by one figure of one workload."""

    what: str
    group: str
    wanted: float
    figure: Callable[[Workload], str]
    prompt_tokens: int = 128
    batch: int = 1
    neighbours: int = 0
    peers: tuple[str, ...] = ()  # all of the class where empty


_RACES = (
    _Race(what="decode fp32", group="fp32", wanted=1.1, figure=step),
    _Race(what="decode int8", group="int8", wanted=2.0, figure=step, peers=("ctranslate2", "openvino")),
    _Race(what="decode int8", group="int8", wanted=1.0, figure=step, peers=("onnxruntime-genai",)),
    _Race(
        what="decode int8, one busy neighbour",
        group="int8",
        wanted=1.0,
        figure=step,
        neighbours=1,
        peers=("onnxruntime-genai",),
    ),
    _Race(what="decode int4", group="int4", wanted=2.8, figure=step, peers=("openvino",)),
    _Race(what="decode int8 after 1,900 tokens", group="int8", wanted=1.5, figure=step, prompt_tokens=1900),
    _Race(what="decode int4 after 1,900 tokens", group="int4", wanted=1.8, figure=step, prompt_tokens=1900),
    _Race(what="prefill int8, 128 tokens", group="int8", wanted=1.1, figure=first_token),
    _Race(what="prefill int8, 1,024 tokens", group="int8", wanted=1.1, figure=first_token, prompt_tokens=1024),
    _Race(what="decode int8, 8 rows", group="int8", wanted=1.5, figure=step, batch=8),
    _Race(what="cold start to first token, int8", group="int8", wanted=2.0, figure=lambda _: COLD_START),
)
_OWN_FP32 = (128, 1024)  # prompts that int8 must not read more slowly than our float32
_BUSY_SHARE = 0.6  # of the quiet decode, beside one busy neighbour on two cores
_LOAD_S = 0.5
_MEMORY = 1.25  # of the weights' bytes
_ROOFLINE = {"fp32": 0.85, "int8": 0.85, "int4": 0.75}
_EXPORT = {"peak_rss_bytes": 0.25, "seconds": 0.6}  # of optimum's


def judge_targets(result: Mapping[str, Any]) -> list[Judged]:
    """Judge every target by a result of run.py; each scheme of ours by itself."""
    found: list[Judged] = []
    for race in _RACES:
        found += _judged_race(race, result["groups"].get(race.group))
    int8 = result["groups"].get("int8")
    if int8 is not None:
        for name, row in _rows(int8, "ours"):
            found += _own_targets(name, row, int8)
    found += [_roofline(precision, result) for precision in _ROOFLINE]
    return [*found, *_exports(result)]


def workload_of(group: Group, prompt_tokens: int, batch: int = 1, neighbours: int = 0) -> Workload | None:
    """The group's workload of that form, whatever it generates."""
    found = map(Workload.parse, group["workloads"])
    wanted = (prompt_tokens, batch, neighbours)
    return next((each for each in found if (each.prompt_tokens, each.batch, each.neighbours) == wanted), None)


def ratio_of(base: Mapping[str, Any], row: Mapping[str, Any], figure: str) -> Spread:
    """How many times as fast `row` is as `base`, round by round."""
    pairs = zip(base["times"][figure], row["times"][figure], strict=True)
    return Spread.of([other / own for other, own in pairs])


def best_peer(group: Group, precision: str, figure: str, peers: tuple[str, ...] = ()) -> str | None:
    """The peer with the best median; our floor is none, and what is void or has no figure does not count."""
    found = {
        name: Spread.of(row["times"][figure]).median
        for name, row in _rows(group, "peer")
        if row["precision"] == precision and figure in row["times"] and (not peers or row["peer"] in peers)
    }
    return min(found, key=lambda name: found[name]) if found else None


def _rows(group: Group, role: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Of a role, without those that are void; of ours, without other classes' rows."""
    for name, row in group["rows"].items():
        if row["role"] == role and not row["void"] and (role != "ours" or row["precision"] == group["precision"]):
            yield name, row


def _judged_race(race: _Race, group: Group | None) -> list[Judged]:
    workload = None if group is None else workload_of(group, race.prompt_tokens, race.batch, race.neighbours)
    if group is None or workload is None:
        why = "the run did not have this workload"
        return [Judged(what=race.what, ours=f"codegen-edge {race.group}", wanted=race.wanted, why=why)]
    figure = race.figure(workload)
    best = best_peer(group, race.group, figure, race.peers)
    found = []
    for name, row in _rows(group, "ours"):
        start = Judged(what=race.what, ours=name, wanted=race.wanted)
        if best is None or figure not in row["times"]:
            found.append(replace(start, why="no peer of the class has this figure" if best is None else "ours failed"))
        else:
            ratio = ratio_of(group["rows"][best], row, figure)
            found.append(_verdict(start, ratio, too_noisy(group["noise"], figure), best))
    return found


def _own_targets(name: str, row: Mapping[str, Any], group: Group) -> Iterator[Judged]:
    """Of one int8 scheme, what no peer is needed for."""
    times, noise = row["times"], group["noise"]
    fp32 = group["rows"].get("codegen-edge fp32")
    for prompt_tokens in _OWN_FP32:
        workload = workload_of(group, prompt_tokens)
        figure = "" if workload is None else first_token(workload)
        start = Judged(what=f"prefill int8, {prompt_tokens:,} tokens", ours=name, wanted=1.0)
        if fp32 is not None and figure in times and figure in fp32["times"]:
            yield _verdict(start, ratio_of(fp32, row, figure), too_noisy(noise, figure), "codegen-edge fp32")
        else:
            yield start
    quiet, busy = workload_of(group, 128), workload_of(group, 128, neighbours=1)
    start = Judged(what="decode int8, one busy neighbour", ours=name, wanted=_BUSY_SHARE)
    if quiet is not None and busy is not None and {step(quiet), step(busy)} <= times.keys():
        ratio = Spread.of([a / b for a, b in zip(times[step(quiet)], times[step(busy)], strict=True)])
        yield _verdict(start, ratio, too_noisy(noise, step(busy)), "itself when quiet")
    else:
        yield start
    for figure, what, wanted, unit in (
        (LOAD, "load, seconds", _LOAD_S, 1),
        (PEAK_RSS, "peak memory over the file's bytes", _MEMORY, row["file_bytes"]),
    ):
        start = Judged(what=f"{what}, int8", ours=name, wanted=wanted, is_at_most=True)
        if figure in times and unit:
            yield _verdict(start, Spread.of([value / unit for value in times[figure]]), too_noisy(noise, figure))
        else:
            yield start


def _roofline(precision: str, result: Mapping[str, Any]) -> Judged:
    what, ours = f"decode {precision}, share of the roofline", f"codegen-edge {precision}"
    start = Judged(what=what, ours=ours, wanted=_ROOFLINE[precision])
    found = result.get("roofline", {}).get(precision)
    if found is None:
        return start
    limits = (Spread(**found["roofline"][f"decode_of_{limit}"]) for limit in ("memory", "products"))
    return _verdict(start, max(limits, key=lambda share: share.median), "")


def _exports(result: Mapping[str, Any]) -> Iterator[Judged]:
    exports = result.get("exports", {})
    for figure, wanted in _EXPORT.items():
        what = {"peak_rss_bytes": "export, peak memory", "seconds": "export, time"}[figure]
        start = Judged(what=what, ours="codegen-edge", wanted=wanted, is_at_most=True)
        if {"codegen-edge", "optimum-onnx"} <= exports.keys():
            own, other = exports["codegen-edge"][figure], exports["optimum-onnx"][figure]
            yield _verdict(start, Spread.of([a / b for a, b in zip(own, other, strict=True)]), "", "optimum-onnx")
        else:
            yield replace(start, why=exports.get("error", ""))


def _verdict(start: Judged, ratio: Spread, noisy: str, against: str = "") -> Judged:
    def is_reached(value: float) -> bool:
        return value <= start.wanted if start.is_at_most else value >= start.wanted

    is_split = is_reached(ratio.low) != is_reached(ratio.high)
    verdict = TOO_NOISY if noisy and is_split else REACHED if is_reached(ratio.median) else MISSED
    return replace(start, ratio=ratio, verdict=verdict, why=noisy, against=against)
