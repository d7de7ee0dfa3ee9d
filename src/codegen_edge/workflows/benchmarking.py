"""How fast are bundles on this machine? One call: a fresh process per bundle and round, limits measured beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from codegen_edge.bundle import Bundle, open_bundle
from codegen_edge.dependencies import installed_version
from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.speed.fresh_process import measure_once, task_of
from codegen_edge.evaluation.speed.kinds import ProductKind
from codegen_edge.evaluation.speed.measurement import Measurement
from codegen_edge.evaluation.speed.results import BundleSpeed, Limits, SpeedResult, bundle_speed, roofline_of
from codegen_edge.evaluation.speed.settings import SpeedSettings
from codegen_edge.evaluation.speed.surroundings import (
    LoadWatch,
    describe_machine,
    largest_cache_bytes,
    memory_bytes,
)
from codegen_edge.evaluation.speed.timing import interleave
from codegen_edge.ort_session import default_threads
from codegen_edge.runtimes import RUNTIMES
from codegen_edge.runtimes.backends.ort import CPU_PREFILL_CHUNK
from codegen_edge.workflows.progress import OnStage, silent

if TYPE_CHECKING:  # it needs onnx-ir, which may be missing
    from codegen_edge.evaluation.speed.counting import GraphWork

_LIMITED_RUNTIME = "cpu"
_REHEARSAL = 2  # new tokens of the run that is not counted


@dataclass(frozen=True, slots=True)
class _Side:
    """A bundle among those that are compared."""

    label: str
    bundle: Bundle
    work: GraphWork | None


def bench(
    bundles: str | Path | Sequence[str | Path],
    settings: SpeedSettings | None = None,
    *,
    on_stage: OnStage = silent,
) -> SpeedResult:
    """Measure bundles, each in a fresh process per round, in turn.

    Every bundle runs once before the rounds, uncounted: what does not run at all fails there, and files are read into
    the page cache. With several bundles the first is measured twice per round, which gives the noise bound.

    Args:
        bundles: one or several folders.
        settings: the workload; None takes the defaults.
        on_stage: called with the number of processes that have ended, and of those in all.

    Returns:
        Figures with their ranges, the machine and all rounds; `evaluation.speed.verdict.judge` compares them.

    Raises:
        InvalidInputError: no bundle, one that is given twice, a workload that fits no context or memory, no such
            runtime.
        BundleError: a bundle cannot be opened, or does not fit the runtime.
        RuntimeUnavailableError: the runtime cannot be had here.
        BackendError: a process ended without a result.
    """
    settings = settings or SpeedSettings()
    paths = [Path(bundles)] if isinstance(bundles, str | Path) else [Path(each) for each in bundles]
    RUNTIMES.find(settings.runtime)
    no_roofline = _no_roofline(settings.runtime)
    sides = [_opened(path, label, settings, is_counted=not no_roofline) for label, path in _labelled(paths)]
    is_doubled = len(sides) > 1
    watch = LoadWatch()
    runs = _Runs(settings, len(sides) + settings.rounds * (len(sides) + is_doubled), on_stage)
    runs.rehearse(sides)
    rounds = interleave(
        {side.label: runs.measuring(side) for side in sides}, rounds=settings.rounds, is_first_doubled=is_doubled
    )
    # The first one's own rounds and the second ones took turns.
    first = runs.found[sides[0].label]
    again = tuple(first[1::2]) if is_doubled else ()
    measured = [each.limits for found in runs.found.values() for each in found if each.limits is not None]
    limits = Limits.of(measured) if measured else None
    runs.found[sides[0].label] = first[::2] if is_doubled else first
    return SpeedResult(
        settings=settings,
        machine=describe_machine(settings.threads or default_threads()),
        load=watch.stop(),
        bundles=tuple(_speed(side, runs.found[side.label], limits, settings) for side in sides),
        again=again,
        rounds=rounds,
        limits=limits,
        no_roofline=no_roofline,
    )


class _Runs:
    """Processes that are run one after another, and what they measured.

    Attributes:
        found: by label of a bundle, its measurements in order.
    """

    def __init__(self, settings: SpeedSettings, total: int, on_stage: OnStage) -> None:
        self.found: dict[str, list[Measurement]] = {}
        self._settings = settings
        self._total, self._done = total, 0
        self._on_stage = on_stage

    def rehearse(self, sides: Sequence[_Side]) -> None:
        """Run each once, shortly and uncounted."""
        short = replace(self._settings, new_tokens=_REHEARSAL)
        for side in sides:
            self._measured(side, short, None)

    def measuring(self, side: _Side) -> Callable[[], dict[str, float]]:
        """What measures a bundle once, and keeps it."""
        self.found[side.label] = []
        kinds = None if side.work is None else side.work.kinds

        def measure() -> dict[str, float]:
            measurement = self._measured(side, self._settings, kinds)
            self.found[side.label].append(measurement)
            return measurement.figures()

        return measure

    def _measured(self, side: _Side, settings: SpeedSettings, kinds: Sequence[ProductKind] | None) -> Measurement:
        self._on_stage("measuring", self._done, self._total)
        measurement = measure_once(task_of(side.bundle, settings, kinds))
        self._done += 1
        self._on_stage("measuring", self._done, self._total)
        return measurement


def _labelled(paths: Sequence[Path]) -> list[tuple[str, Path]]:
    """By the names of the folders, or by their paths where two have one name."""
    if not paths:
        raise InvalidInputError("no bundle was given")
    for number, path in enumerate(paths):
        if any(path.resolve() == other.resolve() for other in paths[:number]):
            raise InvalidInputError(f"{path} is given twice; its noise is measured by itself")
    names = [path.resolve().name for path in paths]
    return [(name if names.count(name) == 1 else str(path), path) for name, path in zip(names, paths, strict=True)]


def _opened(path: Path, label: str, settings: SpeedSettings, *, is_counted: bool) -> _Side:
    """Check a bundle, and count what its graph does."""
    bundle = open_bundle(path)
    bundle.require_task("text-generation")
    settings.check_room(bundle, memory_bytes())
    if not is_counted or bundle.manifest.target != "ort":  # that it does not fit the runtime is for the runtime to say
        return _Side(label, bundle, None)
    from codegen_edge.evaluation.speed.counting import count_work

    return _Side(label, bundle, count_work(bundle))


def _no_roofline(runtime: str) -> str:
    """Why limits cannot be measured; "" where they can."""
    if runtime != _LIMITED_RUNTIME:
        return f"limits are measured of the {_LIMITED_RUNTIME} runtime only, not of {runtime}"
    if installed_version("onnx-ir") is None:
        return "limits need onnx-ir, which reads the graph: pip install onnx-ir"
    return ""


def _speed(side: _Side, rounds: Sequence[Measurement], limits: Limits | None, settings: SpeedSettings) -> BundleSpeed:
    roofline = None
    if side.work is not None and limits is not None:
        roofline = roofline_of(
            side.work, rounds, limits, settings, chunk=CPU_PREFILL_CHUNK, cache_bytes=largest_cache_bytes()
        )
    manifest = side.bundle.manifest
    return bundle_speed(side.label, manifest.precision, side.bundle.size_bytes, rounds, settings, roofline)
