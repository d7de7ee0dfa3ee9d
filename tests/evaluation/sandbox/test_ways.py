"""How a sandbox is found: bubblewrap where it works, bare processes where they are allowed, else one clear line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from codegen_edge.errors import InvalidInputError, RuntimeUnavailableError, SandboxUnavailableError
from codegen_edge.evaluation.sandbox import FailureKind, Limits, PrintedProgram, Sandbox
from codegen_edge.evaluation.sandbox import ways as ways_module
from codegen_edge.evaluation.sandbox.ways import Way, ways
from codegen_edge.evaluation.sandbox.zygote import Zygote, ZygoteError, num_threads_of_user
from tests.evaluation.sandbox.conftest import LIMITS, bubblewrap_sandbox

FakeBubblewrap = Callable[[str], None]


@pytest.fixture
def fake_bubblewrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeBubblewrap:
    """Put a `bwrap` before the real one; takes the lines of its script."""

    def make(script: str) -> None:
        path = tmp_path / "bwrap"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    return make


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            "echo 'bwrap: No permissions to create a new namespace' >&2; exit 1",
            "No permissions to create a new namespace",
        ),
        ("exit 0", "the channel was closed"),
        ('while [ "$1" != "--" ]; do shift; done; shift; exec "$@"', "sees|not permitted|No such file|No module named"),
    ],
    ids=["fails", "does nothing", "hides nothing"],
)
def test_x09_a_bubblewrap_that_does_not_work_is_not_used(
    fake_bubblewrap: FakeBubblewrap, script: str, reason: str
) -> None:
    fake_bubblewrap(script)
    with pytest.raises(SandboxUnavailableError, match=reason) as caught:
        Sandbox()
    assert isinstance(caught.value, RuntimeUnavailableError)
    assert caught.value.exit_code == 3
    assert "allow_unsandboxed=True" in str(caught.value)
    assert "--allow-unsandboxed" in caught.value.hint
    assert "\n" not in str(caught.value)
    with Sandbox(allow_unsandboxed=True) as made:
        assert made.kind == "process"
        assert made.pids_limit in ("cgroup", "rlimit", "none")
        assert made.run(PrintedProgram(program="1 + 1")).value == 2


def test_x09_without_bubblewrap_nothing_runs_unasked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(ways_module, "shutil", type("Nowhere", (), {"which": staticmethod(lambda _: "/none/bwrap")}))
    with pytest.raises(SandboxUnavailableError, match="No such file or directory: '/none/bwrap'"):
        Sandbox()


def test_bubblewrap_is_preferred() -> None:
    with bubblewrap_sandbox() as made, Sandbox(allow_unsandboxed=True) as lenient:
        assert (made.kind, lenient.kind) == ("bubblewrap", "bubblewrap")
        assert made.pids_limit in ("cgroup", "rlimit", "none")


@pytest.mark.parametrize("way", [Way(kind="bubblewrap", is_nested=True), Way(kind="bubblewrap")], ids=str)
def test_every_way_contains_a_program(monkeypatch: pytest.MonkeyPatch, way: Way) -> None:
    monkeypatch.setattr("codegen_edge.evaluation.sandbox.sandbox.ways", lambda: [way])
    with bubblewrap_sandbox(Limits(wall_seconds=0.7)) as made:
        seen = "import os\n[os.getuid(), os.listdir('/tmp'), open('x', 'w').write('1'), 'HOME' in os.environ]"
        for _ in range(2):
            assert made.run(PrintedProgram(program=seen)).value == [65534, [], 1, False]
        assert made.run(PrintedProgram(program="while True: pass")).kind == FailureKind.TIMEOUT
        assert not made.run(PrintedProgram(program="import os\nos.kill(-1, 9)\nos.kill(os.getppid(), 9)\nx = y")).passed


def test_capabilities_are_gone(sandbox: Sandbox) -> None:
    program = (
        "[line.split()[1] for line in open('/proc/self/status') if line.startswith(('CapEff', 'CapPrm', 'CapInh'))]"
    )
    assert sandbox.run(PrintedProgram(program=program)).value == ["0000000000000000"] * 3
    assert sandbox.run(PrintedProgram(program="import os\nos.getpid(), os.getppid()")).value == (2, 1)


def test_preloaded_modules_are_there(without_bubblewrap: None) -> None:
    with Sandbox(limits=LIMITS, allow_unsandboxed=True, preload=["decimal"]) as made:
        assert made.run(PrintedProgram(program="import sys\n'decimal' in sys.modules")).value is True


def test_a_module_that_is_not_installed_cannot_be_preloaded() -> None:
    with pytest.raises(InvalidInputError, match="preload: ModuleNotFoundError: No module named 'absent_module'"):
        Sandbox(allow_unsandboxed=True, preload=["absent_module"])


def test_bare_processes_that_do_not_start_are_no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codegen_edge.evaluation.sandbox.sandbox.ways", list)
    monkeypatch.setattr(sys, "executable", "/none/python")
    with pytest.raises(SandboxUnavailableError, match="no process can be started"):
        Sandbox(allow_unsandboxed=True)


def test_the_safest_way_is_tried_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert [(way.is_real_root, way.is_nested) for way in ways()] == [(True, True), (False, True), (False, False)]
    assert [way.is_counted_by_kernel for way in ways()] == [True, False, False]
    assert ways()[0].user_id() in range(61184, 65520)
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert [(way.is_nested, way.is_single_use) for way in ways()] == [(True, False), (False, True)]
    assert all(way.is_counted_by_kernel and way.user_id() is None for way in ways())


def command(way: Way) -> str:
    return " ".join(way.command(control=3, preload=["numpy"], limits=LIMITS))


def test_the_command_binds_python_and_its_packages_and_nothing_of_home(monkeypatch: pytest.MonkeyPatch) -> None:
    packages = "/home/someone/env/lib/site-packages"
    covered = "/tmp/env/lib/site-packages"
    monkeypatch.setattr(sys, "path", ["", "/home/someone/project", packages, covered])
    monkeypatch.setattr(sys, "base_prefix", "/opt/python")
    monkeypatch.setattr(Path, "is_dir", lambda self: True)
    text = command(Way(kind="bubblewrap", is_nested=True))
    assert "--ro-bind /opt/python /opt/python" in text
    assert f"--dir /home/someone/env/lib --ro-bind {packages} {packages}" in text
    assert f"--ro-bind {covered} /codegen-edge-packages/1" in text
    assert "--ro-bind /home/someone/project" not in text
    assert "--cap-add CAP_SYS_ADMIN" in text
    assert "--size" not in text
    single = command(Way(kind="bubblewrap"))
    assert "--cap-add" not in single
    assert f"--size {LIMITS.folder_bytes} --tmpfs /tmp" in single
    assert "--uid 65534" in single
    assert "--uid" not in command(Way(kind="bubblewrap", is_nested=True, is_real_root=True))
    assert command(Way(kind="process")).startswith(os.path.realpath(sys.executable))


def test_a_zygote_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codegen_edge.evaluation.sandbox.zygote.START_SECONDS", 0.05)
    monkeypatch.setattr(ways_module, "_START", "import time; time.sleep(60)")
    with pytest.raises(ZygoteError, match=r"said nothing for 0.1 s|said nothing for 0.0 s"):
        Zygote(Way(kind="process"), preload=(), limits=LIMITS)


def test_threads_of_this_user_are_counted() -> None:
    assert num_threads_of_user() >= 1
