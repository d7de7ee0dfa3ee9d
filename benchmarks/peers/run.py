"""One run: what is missing is converted, then every group in turn, then exports and the roofline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from benchmarks.harness import Rounds
from benchmarks.machine import describe_machine
from benchmarks.peers.artifacts import Artifacts, ConversionError
from benchmarks.peers.chart import ROOFLINE_ROUNDS
from benchmarks.peers.exports import measure_exports
from benchmarks.peers.measuring import Outcome, measure
from benchmarks.peers.peer import PEERS
from benchmarks.peers.preparing import Preparation
from benchmarks.peers.result import group_result
from benchmarks.peers.rounds import Row, run_group
from benchmarks.peers.system import GROUPS, System
from benchmarks.peers.tokens import Reference, reference_of
from benchmarks.peers.worker_process import ENVIRONMENT, REPOSITORY
from benchmarks.peers.workload import Workload
from codegen_edge.errors import CodegenEdgeError
from codegen_edge.evaluation.speed.settings import SpeedSettings
from codegen_edge.evaluation.speed.surroundings import LoadWatch, memory_bytes
from codegen_edge.workflows.benchmarking import bench

_LIMIT_S = 600  # of one answer of a worker: compiling, or a long prefill on a busy machine
_MOST_PLAIN = 1024  # prompt tokens
_PARTS = ("exports", "roofline")  # of a result, beside its groups

Say = Callable[[str], None]
Result = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is run.

    Attributes:
        shape: of benchmarks.random_checkpoint.
        workloads: by group.
        only: parts of the names of the systems that are run beside the first of a group; none takes all.
        rounds: at least 2.
        threads: CPU threads of every system.
        export_rounds: of exports; 0 measures none.
        has_roofline: whether the share of the roofline is measured.
        is_quick: for the record.
    """

    shape: str
    workloads: Mapping[str, Sequence[Workload]]
    only: Sequence[str]
    rounds: int
    threads: int
    export_rounds: int
    has_roofline: bool
    is_quick: bool

    def __post_init__(self) -> None:
        unknown = [name for name in self.workloads if name not in GROUPS]
        if unknown:
            raise ValueError(f"groups are {', '.join(GROUPS)}, got {', '.join(unknown)}")
        if self.export_rounds == 1:
            raise ValueError("export_rounds must be 0 or at least 2, got 1: one round has no range")

    def systems(self, group: str) -> list[System]:
        """The systems of a group, ours first."""
        return [each for place, each in enumerate(GROUPS[group]) if not place or self._is_wanted(each)]

    def _is_wanted(self, system: System) -> bool:
        return not self.only or any(part in system.name for part in self.only)


def run(
    settings: Settings, artifacts: Artifacts, *, earlier: Mapping[str, Any], say: Say, save: Callable[[Result], None]
) -> None:
    """Measure everything.

    Args:
        settings: what is run.
        artifacts: the models.
        earlier: a result whose parts stay where they are not measured again, if it is of such a machine and shape.
        say: called with lines of progress.
        save: called with the result so far, after every round but the first, and every part.

    Raises:
        ConversionError: the checkpoint cannot be written.
    """
    checkpoint = artifacts.path("checkpoint")
    preparation = Preparation(artifacts, memory_bytes(), on_skip=say)
    for system in (each for group in settings.workloads for each in settings.systems(group)):
        preparation.prepare(system)
    result: dict[str, Any] = {
        "machine": describe_machine(),
        "shape": settings.shape,
        "threads": settings.threads,
        "rounds": settings.rounds,
        "is_quick": settings.is_quick,
        "conversions": artifacts.conversions(),
        "groups": {},
    }
    kept = kept_of(earlier, result)
    if kept:
        say(
            f"kept of the earlier run where they are not measured again: {', '.join([*kept['groups'], *kept['parts']])}"
        )
        result |= {"groups": dict(kept["groups"]), **kept["parts"]}
    reference = _reference(str(checkpoint), settings, say) if settings.workloads else {}

    def save_all() -> None:
        save(result | {"peers": _peers(result["groups"])})

    def save_group(group: str, found: dict[str, Any]) -> None:
        result["groups"][group] = found
        result["groups"] = {name: result["groups"][name] for name in GROUPS if name in result["groups"]}
        save_all()

    for group in settings.workloads:
        on_found = partial(save_group, group)
        on_found(_group(group, settings, preparation, artifacts, reference, result["machine"], say, on_found))
    if settings.export_rounds:
        result["exports"] = measure_exports(artifacts, settings.export_rounds, on_turn=say)
        save_all()
    if settings.has_roofline:
        say("the roofline of our bundles")
        result["roofline"] = _roofline(artifacts, list(result["groups"]), settings.threads, say)
        save_all()


def _group(
    name: str,
    settings: Settings,
    preparation: Preparation,
    artifacts: Artifacts,
    reference: Mapping[str, Reference],
    machine: Mapping[str, Any],
    say: Say,
    on_found: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Of one group; `on_found` is called with the result of the rounds so far."""
    workloads = settings.workloads[name]
    say(f"{name}: {', '.join(each.name for each in workloads)}")

    def turn(system: System) -> Outcome:
        found = preparation.of(system)
        chosen = [each for each in workloads if system.precision == name or _is_plain(each)]
        start = partial(measure, system, found.command, found.model, chosen)
        return start(threads=settings.threads, limit_s=_LIMIT_S)

    def result_of(rows: Mapping[str, Row], rounds: Rounds) -> dict[str, Any]:
        artifacts_used = {row.system.artifact for row in rows.values() if not row.skipped}
        return {
            "date": datetime.now(UTC).date().isoformat(),
            **group_result(
                name,
                workloads,
                rows,
                rounds,
                reference=reference,
                load=watch.stop(),
                machine=machine,
                file_bytes={artifact: artifacts.size_bytes(artifact) for artifact in artifacts_used},
            ),
        }

    watch = LoadWatch()
    systems = settings.systems(name)
    found = run_group(
        systems,
        workloads,
        turn,
        rounds=settings.rounds,
        on_turn=say,
        on_rounds=lambda rows, rounds: on_found(result_of(rows, rounds)),
    )
    return result_of(*found)


def _peers(groups: Mapping[str, Any]) -> dict[str, Any]:
    """How each peer is installed, and the versions that took part."""
    found = {peer.name: {**asdict(peer), "versions": {}} for peer in PEERS.values()}
    for row in (row for group in groups.values() for row in group["rows"].values() if row["peer"]):
        found[row["peer"]]["versions"] |= row["versions"]
    return found


def kept_of(earlier: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """Groups and other parts of an earlier result that may stand in this one: of such a machine and such settings."""
    if not earlier:
        return {}
    before, now = earlier["machine"], result["machine"]
    features = before["features"].keys() & now["features"].keys()  # what both asked for
    is_same = (
        all(before["features"][name] == now["features"][name] for name in features)
        and all(before[name] == now[name] for name in ("processor", "cores"))
        and all(earlier[name] == result[name] for name in ("shape", "threads", "rounds", "is_quick"))
    )
    if not is_same:
        return {}
    return {"groups": earlier["groups"], "parts": {name: earlier[name] for name in _PARTS if name in earlier}}


def _is_plain(workload: Workload) -> bool:
    """Whether systems of another precision run it, too: they are there to be compared by prefill and decode."""
    return workload.batch == 1 and not workload.neighbours and workload.prompt_tokens <= _MOST_PLAIN


def _reference(checkpoint: str, settings: Settings, say: Say) -> dict[str, Reference]:
    """What transformers, as it is installed beside us, generates of every workload; none where it fails."""
    wanted = {each.name: each for workloads in settings.workloads.values() for each in workloads}
    say(f"reference tokens of {', '.join(wanted)}")
    asked = {name: {"prompts": each.prompts(), "new_tokens": each.new_tokens} for name, each in wanted.items()}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.peers.workers.reference"],
        input=json.dumps({"model": checkpoint, "threads": settings.threads, "workloads": asked}),
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        env=os.environ | ENVIRONMENT,
    )
    if done.returncode != 0:
        say(f"no reference, tokens are not checked: {done.stderr.strip().splitlines()[-1:]}")
        return {}
    return reference_of(json.loads(done.stdout.splitlines()[-1]))


def _roofline(artifacts: Artifacts, precisions: Sequence[str], threads: int, say: Say) -> dict[str, dict[str, Any]]:
    """By precision, speed and shares of the limits of our bundle, by `codegen-edge bench`."""
    try:
        paths = [artifacts.path(f"ours-{precision}") for precision in precisions]
        result = bench(paths, SpeedSettings(rounds=ROOFLINE_ROUNDS, threads=threads))
    except (ConversionError, CodegenEdgeError) as exc:
        say(f"no roofline: {exc}")
        return {}
    found = {}
    for precision, each in zip(precisions, result.bundles, strict=True):
        if each.roofline is not None:
            found[precision] = {
                "roofline": each.roofline.to_dict(),
                "decode_tokens_per_second": each.decode_tokens_per_second.to_dict(),
                "prefill_tokens_per_second": each.prefill_tokens_per_second.to_dict(),
            }
    return found
