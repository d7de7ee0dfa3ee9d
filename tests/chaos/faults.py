"""A fault at every point of a scenario, and what is found afterwards."""

from __future__ import annotations

import resource
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.points import Happening, error_at, kill_at, nothing, watched
from tests.chaos.scenarios import Scenario
from tests.fuzz.children import Ended, in_child

_PATIENCE_SECONDS = 120.0
_SIZES = 40  # that a disk is full at
_FEW = 3


@dataclass(slots=True, kw_only=True)
class Tally:
    """What became of a scenario under a kind of fault.

    Attributes:
        scenario, fault: which.
        counts: how often the old, the new or nothing was there afterwards.
        failures: everything else: bytes of both, something left behind, a traceback, no room for the next one.
    """

    scenario: str
    fault: str
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def kills(scenario: Scenario, work: Path, step: int) -> Tally:
    """The process is killed in front of every `step`-th point."""
    tally = Tally(scenario=scenario.name, fault="kill -9")
    for number in _some(num_points(scenario, work), step):
        folder = _prepared(scenario, work)
        ended = in_child(_faulty(scenario, folder, kill_at(number)), seconds=_PATIENCE_SECONDS)
        if ended.outcome != "crash" or "SIGKILL" not in ended.words:
            tally.failures.append(f"point {number}: was not killed: {ended.outcome}, {ended.words}")
        _judge(scenario, folder, f"point {number}", tally)
    return tally


def errors(scenario: Scenario, work: Path, step: int, code: int, *, for_ever: bool) -> Tally:
    """The system refuses every `step`-th call, that one alone or all that follow."""
    tally = Tally(scenario=scenario.name, fault=f"error {code}, {'for ever' if for_ever else 'once'}")
    for number in _some(num_points(scenario, work), step):
        folder = _prepared(scenario, work)
        happening = error_at(number, code, for_ever=for_ever)
        ended = in_child(_faulty(scenario, folder, happening), seconds=_PATIENCE_SECONDS)
        _check_words(scenario, folder, ended, f"point {number}", tally)
        _judge(scenario, folder, f"point {number}", tally)
    return tally


def full_disks(scenario: Scenario, work: Path, step: int) -> Tally:
    """No file may grow beyond a size, from none to that of the largest one: as a full disk, wherever it ends."""
    tally = Tally(scenario=scenario.name, fault="full disk")
    folder = _prepared(scenario, work)
    before = {path.stat().st_ino for path in folder.rglob("*")}
    scenario.write(folder)
    written = [path.stat() for path in folder.rglob("*") if path.is_file() and path.stat().st_ino not in before]
    largest = max(each.st_size for each in written)
    for number in _some(_SIZES, step):
        size_bytes = largest * number // _SIZES
        folder = _prepared(scenario, work)

        def limited(folder: Path = folder, size_bytes: int = size_bytes) -> str:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, size_bytes))
            scenario.write(folder)
            return ""

        ended = in_child(limited, seconds=_PATIENCE_SECONDS)
        if ended.outcome != "error":
            tally.failures.append(f"{size_bytes} bytes: {ended.outcome}, {ended.words}")
        left = {path.name for path in folder.iterdir()} - scenario.names
        if left:
            tally.failures.append(f"{size_bytes} bytes: {sorted(left)} was left behind")
        _judge(scenario, folder, f"{size_bytes} bytes", tally)
    return tally


def num_points(scenario: Scenario, work: Path) -> int:
    """Calls that change the disk."""
    folder = _prepared(scenario, work)
    with watched(nothing) as names:
        scenario.write(folder)
    return len(names)


def _some(count: int, step: int) -> range:
    """Every `step`-th of so many, but all where there are few."""
    return range(0, count, step if count > _FEW * step else 1)


def _faulty(scenario: Scenario, folder: Path, happening: Happening) -> Callable[[], str]:
    def write() -> str:
        with watched(happening):
            scenario.write(folder)
        return ""

    return write


def _prepared(scenario: Scenario, work: Path) -> Path:
    folder = work / "scene"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    scenario.prepare(folder)
    return folder


def _check_words(scenario: Scenario, folder: Path, ended: Ended, where: str, tally: Tally) -> None:
    """An error is one line of ours, and says truly whether the old state is intact."""
    if ended.outcome not in ("done", "error"):
        tally.failures.append(f"{where}: {ended.outcome}, {ended.words}")
    says_old = "old state is intact" in ended.words
    if (scenario.state(folder) == "new") == says_old:
        tally.failures.append(f"{where}: it is {scenario.state(folder)}, and was told: {ended.words or 'done'}")


def _judge(scenario: Scenario, folder: Path, where: str, tally: Tally) -> None:
    """Count what is there; then the next writer must succeed and leave nothing of the one before."""
    state = scenario.state(folder)
    tally.counts[state] += 1
    if state == "mixed" or (state == "nothing" and scenario.replaces):
        tally.failures.append(f"{where}: what is there is {state}")
    ended = in_child(_faulty(scenario, folder, nothing), seconds=_PATIENCE_SECONDS)
    left = {path.name for path in folder.iterdir()} - scenario.names
    if ended.outcome != "done" or scenario.state(folder) != "new" or left:
        tally.failures.append(f"{where}: the next one ended with {ended}, left {sorted(left)}")
