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

from benchmarks.machine import describe_machine
from benchmarks.peers.artifacts import Artifacts, ConversionError
from benchmarks.peers.exports import measure_exports
from benchmarks.peers.measuring import Outcome, measure
from benchmarks.peers.peer import PEERS
from benchmarks.peers.preparing import Preparation
from benchmarks.peers.result import group_result
from benchmarks.peers.rounds import run_group
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

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is run.

    Attributes:
        shape: of benchmarks.random_checkpoint.
        workloads: by group.
        only: part of the names of the systems that are run beside the first of a group; "" takes all.
        rounds: at least 2.
        threads: CPU threads of every system.
        export_rounds: of exports; 0 measures none.
        has_roofline: whether the share of the roofline is measured.
        is_quick: for the record.
    """

    shape: str
    workloads: Mapping[str, Sequence[Workload]]
    only: str
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
        return [each for place, each in enumerate(GROUPS[group]) if not place or self.only in each.name]


def run(settings: Settings, artifacts: Artifacts, *, say: Say, save: Callable[[Mapping[str, Any]], None]) -> None:
    """Measure everything.

    Args:
        settings: what is run.
        artifacts: the models.
        say: called with lines of progress.
        save: called with the result so far, after every part.

    Raises:
        ConversionError: the checkpoint cannot be written.
    """
    checkpoint = artifacts.path("checkpoint")
    preparation = Preparation(artifacts, memory_bytes(), on_skip=say)
    for system in (each for group in settings.workloads for each in settings.systems(group)):
        preparation.prepare(system)
    result: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": describe_machine(),
        "shape": settings.shape,
        "threads": settings.threads,
        "rounds": settings.rounds,
        "is_quick": settings.is_quick,
        "peers": {peer.name: {**asdict(peer), "versions": {}} for peer in PEERS.values()},
        "conversions": artifacts.conversions(),
        "groups": {},
    }
    reference = _reference(str(checkpoint), settings, say)
    for group in settings.workloads:
        result["groups"][group] = _group(group, settings, preparation, artifacts, reference, result["machine"], say)
        for row in result["groups"][group]["rows"].values():
            if row["peer"]:
                result["peers"][row["peer"]]["versions"] |= row["versions"]
        save(result)
    if settings.export_rounds:
        result["exports"] = measure_exports(artifacts, settings.export_rounds, on_turn=say)
        save(result)
    if settings.has_roofline:
        say("the roofline of our bundles")
        result["roofline"] = _roofline(artifacts, settings, say)
        save(result)


def _group(
    name: str,
    settings: Settings,
    preparation: Preparation,
    artifacts: Artifacts,
    reference: Mapping[str, Reference],
    machine: Mapping[str, Any],
    say: Say,
) -> dict[str, Any]:
    workloads = settings.workloads[name]
    say(f"{name}: {', '.join(each.name for each in workloads)}")

    def turn(system: System) -> Outcome:
        found = preparation.of(system)
        chosen = [each for each in workloads if system.precision == name or _is_plain(each)]
        start = partial(measure, system, found.command, found.model, chosen)
        return start(threads=settings.threads, limit_s=_LIMIT_S)

    watch = LoadWatch()
    rows, rounds = run_group(settings.systems(name), workloads, turn, rounds=settings.rounds, on_turn=say)
    artifacts_used = {row.system.artifact for row in rows.values() if not row.skipped}
    return group_result(
        name,
        workloads,
        rows,
        rounds,
        reference=reference,
        load=watch.stop(),
        machine=machine,
        file_bytes={artifact: artifacts.size_bytes(artifact) for artifact in artifacts_used},
    )


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


def _roofline(artifacts: Artifacts, settings: Settings, say: Say) -> dict[str, dict[str, float]]:
    """By precision, the share of the nearer limit in the decode of our bundle, by `codegen-edge bench`."""
    precisions = list(settings.workloads)
    try:
        paths = [artifacts.path(f"ours-{precision}") for precision in precisions]
        result = bench(paths, SpeedSettings(rounds=2, threads=settings.threads))
    except (ConversionError, CodegenEdgeError) as exc:
        say(f"no roofline: {exc}")
        return {}
    found = {}
    for precision, each in zip(precisions, result.bundles, strict=True):
        if each.roofline is not None:
            limits = (each.roofline.decode_of_memory, each.roofline.decode_of_products)
            found[precision] = max(limits, key=lambda spread: spread.median).to_dict()
    return found
