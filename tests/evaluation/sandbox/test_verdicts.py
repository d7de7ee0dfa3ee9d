"""What the supervisor makes of what it hears; and control groups, on folders that look like them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from codegen_edge.evaluation.sandbox import CheckedProgram, FailureKind, Outcome, PrintedProgram
from codegen_edge.evaluation.sandbox import cgroups as cgroups_module
from codegen_edge.evaluation.sandbox.cgroups import ControlGroup, make_group
from codegen_edge.evaluation.sandbox.job import Job
from codegen_edge.evaluation.sandbox.verdicts import outcome_of
from tests.evaluation.sandbox.conftest import LIMITS

CHECKED = CheckedProgram(program="", tests="", entry_point="f", assertions=2)
PRINTED = PrintedProgram(program="")
JOB = Job(
    program="",
    entry_point="f",
    is_strict=False,
    folder="/tmp",
    uid=None,
    processes=1,
    wall_seconds=3.0,
    cpu_seconds=2.0,
    memory_bytes=1,
    output_bytes=1,
    file_bytes=1,
    folder_bytes=1,
    open_files=1,
    stack_bytes=1,
)


def heard(said: dict[str, Any], program: CheckedProgram | PrintedProgram = CHECKED, *, full: bool = False) -> Outcome:
    return outcome_of(program, JOB, "nonce", {"seconds": 1.0, **said}, memory_was_full=full)


def reported(**report: object) -> dict[str, object]:
    return {"end": "reported", "report": report}


def test_a_verdict_with_nonce_and_count_passes() -> None:
    outcome = heard(reported(end="verdict", nonce="nonce", assertions=2))
    assert outcome == Outcome(passed=True, kind=None, message="", seconds=1.0, assertions=2)
    assert heard(reported(end="verdict", nonce="nonce", value=[1][0]), PRINTED).value == 1


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ({"end": "timeout"}, FailureKind.TIMEOUT),
        ({"end": "output"}, FailureKind.OUTPUT),
        ({"end": "died"}, FailureKind.EXIT),
        ({"end": "reported", "report": 3}, FailureKind.EXIT),
        (reported(end="verdict", nonce="other", assertions=2), FailureKind.FORGED),
        (reported(end="verdict", nonce="\ud800", assertions=2), FailureKind.FORGED),
        (reported(end="verdict", assertions=2), FailureKind.FORGED),
        (reported(end="verdict", nonce="nonce"), FailureKind.FORGED),
        (reported(end="verdict", nonce="nonce", assertions=True), FailureKind.FORGED),
        (reported(end="verdict", nonce="nonce", assertions=3), FailureKind.FORGED),
        (reported(end="failed", kind="name", message="x\ny\ud800"), FailureKind.NAME),
        (reported(end="failed", kind="none"), FailureKind.FORGED),
        (reported(end="failed", kind="name", value=["absent"]), FailureKind.FORGED),
        (reported(end="exited", exit_code=0, cpu_seconds=0.1), FailureKind.EXIT),
        (reported(end="exited", exit_code=-signal.SIGSEGV, cpu_seconds=0.1), FailureKind.EXIT),
        (reported(end="exited", exit_code=-signal.SIGKILL, cpu_seconds=0.1), FailureKind.EXIT),
        (reported(end="exited", exit_code=-signal.SIGKILL, cpu_seconds=2.9), FailureKind.TIMEOUT),
        (reported(end="exited", exit_code=-signal.SIGXCPU, cpu_seconds=1.9), FailureKind.TIMEOUT),
    ],
    ids=str,
)
def test_anything_else_does_not(said: dict[str, Any], kind: FailureKind) -> None:
    outcome = heard(said)
    assert (outcome.passed, outcome.kind) == (False, kind)
    assert "\n" not in outcome.message
    outcome.message.encode()


def test_a_value_that_is_none_of_ours_is_forged() -> None:
    assert heard(reported(end="verdict", nonce="nonce", value=["absent"]), PRINTED).kind == FailureKind.FORGED


def test_a_kill_for_memory_is_told() -> None:
    assert heard({"end": "died"}, full=True).kind == FailureKind.MEMORY


def version_1(root: Path) -> list[Path]:
    folders = [root / "pids", root / "memory" / "mine"]
    for folder in folders:
        folder.mkdir(parents=True)
    return folders


@pytest.fixture
def group_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is taken for the hierarchies; what is made in it has the files that a kernel would put there."""
    (tmp_path / "groups").write_text("8:pids:/\n4:memory:/mine\n1:cpu:/\n0::/unified\n")
    real_path = Path

    def path(*parts: str) -> Path:
        return tmp_path / "groups" if parts == ("/proc/self/cgroup",) else real_path(*parts)

    monkeypatch.setattr(cgroups_module, "Path", path)
    make = real_path.mkdir

    def mkdir(self: Path, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)
        if "pids" in self.parts or "unified" in self.parts:
            (self / "pids.max").write_text("max")
        if "memory" in self.parts:
            (self / "memory.limit_in_bytes").write_text("-1")

    monkeypatch.setattr(real_path, "mkdir", mkdir)
    return tmp_path / "root"


def test_groups_of_version_1_hold_processes_and_memory(group_root: Path) -> None:
    folders = version_1(group_root)
    (folders[0] / "codegen-edge-sandbox-999999999-0").mkdir()
    for file in (folders[0] / "codegen-edge-sandbox-999999999-0").iterdir():
        file.unlink()
    group = make_group(LIMITS, root=group_root)
    assert group is not None
    assert len(group.folders) == 2
    assert group.limits_processes
    assert (group.folders[0] / "pids.max").read_text() == f"{LIMITS.processes + 8}\n"
    assert int((group.folders[1] / "memory.limit_in_bytes").read_text()) > LIMITS.memory_bytes
    assert not (folders[0] / "codegen-edge-sandbox-999999999-0").exists(), "the empty group of a dead supervisor"
    (group.folders[1] / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    assert group.num_memory_kills == 3
    group.add([1])
    assert (group.folders[0] / "cgroup.procs").read_text() == "1\n"


def test_groups_of_version_2_are_used_where_controllers_are_delegated(group_root: Path) -> None:
    (group_root / "unified").mkdir(parents=True)
    (group_root / "cgroup.controllers").write_text("pids memory\n")
    group = make_group(LIMITS, root=group_root)
    assert group is not None
    assert [folder.parent for folder in group.folders] == [group_root / "unified"]
    assert group.num_memory_kills == 0


def test_there_is_no_group_where_none_can_be_had(group_root: Path, tmp_path: Path) -> None:
    assert make_group(LIMITS, root=tmp_path / "absent") is None
    (group_root / "memory" / "mine").mkdir(parents=True)
    (group_root / "memory" / "mine").chmod(0o500)
    (group_root / "cgroup.controllers").write_text("")
    assert make_group(LIMITS, root=tmp_path / "absent") is None


def test_the_end_of_a_group_is_the_end_of_its_processes(tmp_path: Path) -> None:
    folder = tmp_path / "group"
    folder.mkdir()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        (folder / "cgroup.procs").write_text(f"{process.pid}\n999999999\n")
        give_up = cgroups_module._PATIENCE_SECONDS
        try:
            cgroups_module._PATIENCE_SECONDS = 0.05
            ControlGroup((folder,)).end()
        finally:
            cgroups_module._PATIENCE_SECONDS = give_up
        assert process.wait(5) == -signal.SIGKILL
