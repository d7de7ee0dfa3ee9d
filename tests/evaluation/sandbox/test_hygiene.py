"""Nothing goes from one program to the next, nothing stays behind, and many may run at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.sandbox import CheckedProgram, FailureKind, Limits, PrintedProgram, Sandbox
from codegen_edge.evaluation.sandbox.zygote import ZygoteError
from tests.evaluation.sandbox.conftest import LIMITS, bubblewrap_sandbox
from tests.evaluation.sandbox.watching import ZYGOTE, none_left, processes

DAEMON = """
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv("/bin/sleep", ["sleep", "SECONDS"])
    os._exit(0)
os.wait()
print(1)
"""
MESS = """
import builtins, json, math, os, random, signal, sys
math.pi = 4
builtins.len = lambda x: 42
json.loads = None
sys.setrecursionlimit(50)
random.seed(1)
os.environ["LEFT"] = "1"
signal.signal(signal.SIGUSR1, lambda *_: None)
for folder in ("/tmp", "/dev/shm"):
    open(folder + "/left", "w").close()
    os.mkdir(folder + "/locked", 0)
os.chdir("/")
print(1)
"""
LOOK = """
import builtins, json, math, os, signal, sys
print([math.pi, len([1]), json.loads is None, sys.getrecursionlimit(), sorted(os.listdir("/tmp")),
    os.path.exists("/dev/shm/left"), "LEFT" in os.environ, os.getcwd(), signal.getsignal(signal.SIGUSR1) == 0])
"""
SHARED_MEMORY = """
import ctypes
libc = ctypes.CDLL(None)
print(libc.shmget(4711, 4096, FLAGS))
"""


def test_x07_a_daemon_ends_with_its_program(any_sandbox: Sandbox) -> None:
    seconds = f"98.{os.getpid()}{time.monotonic_ns() % 100_000}"
    outcome = any_sandbox.run(PrintedProgram(program=DAEMON.replace("SECONDS", seconds)))
    assert outcome.passed, outcome
    assert none_left(seconds)


def test_no_state_goes_from_one_program_to_the_next(sandbox: Sandbox) -> None:
    before = sandbox.run(PrintedProgram(program=LOOK)).value
    assert sandbox.run(PrintedProgram(program=MESS)).passed
    assert sandbox.run(PrintedProgram(program=LOOK)).value == before
    assert isinstance(before, list)
    assert before[4:] == [[], False, False, "/tmp", True]
    assert before[1] == 1


def test_shared_memory_of_system_v_goes_with_its_program(sandbox: Sandbox) -> None:
    made = sandbox.run(PrintedProgram(program=SHARED_MEMORY.replace("FLAGS", str(0o1600)))).value
    found = sandbox.run(PrintedProgram(program=SHARED_MEMORY.replace("FLAGS", "0"))).value
    assert isinstance(made, int)
    assert made >= 0
    assert found == -1


def test_no_text_of_a_program_is_found_by_the_next(sandbox: Sandbox) -> None:
    secret = f"text-{os.urandom(8).hex()}"
    tests = f"def check(c):\n    assert c() == 1, '{secret}'"
    assert sandbox.run(CheckedProgram(program="def f():\n    return 1", tests=tests, entry_point="f")).passed
    search = """
import ctypes
pieces = []
for line in open("/proc/self/maps"):
    area, rights, *_ = line.split()
    if rights.startswith("rw") and "[v" not in line:
        start, end = (int(each, 16) for each in area.split("-"))
        pieces.append(ctypes.string_at(start, end - start))
memory = b"".join(pieces)
print([memory.count(bytes(reversed(b"BACKWARDS"))), memory.count(b"BACKWARDS") > 0])
"""
    outcome = sandbox.run(PrintedProgram(program=search.replace("BACKWARDS", secret[::-1])))
    assert (outcome.passed, outcome.value) == (True, [0, True]), outcome


def test_the_order_of_sets_can_be_repeated() -> None:
    program = PrintedProgram(program="[*{'a', 'b', 'c', 'd', 'e', 'f'}]")
    with bubblewrap_sandbox() as first, bubblewrap_sandbox() as second:
        assert first.run(program).value == second.run(program).value


def test_many_threads_use_one_sandbox(sandbox: Sandbox) -> None:
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda i: sandbox.run(PrintedProgram(program=f"{i} ** 2")), range(40)))
    assert [outcome.value for outcome in outcomes] == [i**2 for i in range(40)]


def test_right_programs_pass_beside_busy_ones() -> None:
    right = PrintedProgram(program="sum(i * i for i in range(300_000))")
    with bubblewrap_sandbox(Limits(wall_seconds=2.5)) as made, ThreadPoolExecutor(6) as pool:
        busy = [pool.submit(made.run, PrintedProgram(program="while True: pass")) for _ in range(3)]
        outcomes = list(pool.map(lambda _: made.run(right), range(12)))
        assert all(outcome.passed for outcome in outcomes), outcomes
        assert {each.result().kind for each in busy} == {FailureKind.TIMEOUT}


def test_a_closed_sandbox_leaves_no_process_and_no_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, folders = processes(ZYGOTE), set(tmp_path.iterdir())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for is_bare in (False, True):
        if is_bare:
            monkeypatch.setattr("codegen_edge.evaluation.sandbox.sandbox.ways", list)
        with bubblewrap_sandbox() if not is_bare else Sandbox(limits=LIMITS, allow_unsandboxed=True) as made:
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(lambda _: made.run(PrintedProgram(program=MESS.replace("/dev/shm", "."))), range(2)))
            assert processes(ZYGOTE) - before
            folders_of_groups = [folder for zygote in made._idle if zygote.group for folder in zygote.group.folders]
            assert all(folder.is_dir() for folder in folders_of_groups)
        assert none_left(ZYGOTE, but=before)
        assert not any(folder.exists() for folder in folders_of_groups)
        with pytest.raises(InvalidInputError, match="the sandbox is closed"):
            made.run(PrintedProgram(program="1"))
    assert set(tmp_path.iterdir()) == folders


SUPERVISOR = """
from codegen_edge.evaluation.sandbox import PrintedProgram, Sandbox
with Sandbox() as sandbox:
    print("ready", flush=True)
    sandbox.run(PrintedProgram(program="import os\\nos.execv('/bin/sleep', ['sleep', 'SECONDS'])"))
"""


def test_x10_a_killed_supervisor_leaves_no_process(sandbox: Sandbox) -> None:
    before = processes(ZYGOTE)
    seconds = f"97.{os.getpid()}{time.monotonic_ns() % 100_000}"
    source = SUPERVISOR.replace("SECONDS", seconds)
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline() == "ready\n"
        while not processes(f"sleep\0{seconds}"):
            time.sleep(0.02)
        supervisor.send_signal(signal.SIGKILL)
    assert none_left(f"sleep\0{seconds}")
    assert none_left(ZYGOTE, but=before)


def test_a_zygote_that_was_killed_is_replaced(sandbox: Sandbox) -> None:
    with bubblewrap_sandbox() as made:
        made._idle[0].stop()
        outcome = made.run(PrintedProgram(program="1"))
        assert outcome.kind == FailureKind.EXIT
        assert "the sandbox ended with the program" in outcome.message
        assert made.run(PrintedProgram(program="1")).passed


def test_a_sandbox_that_no_longer_starts_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> object:
        raise ZygoteError("no memory")

    with bubblewrap_sandbox() as made:
        made._idle.pop().stop()
        monkeypatch.setattr("codegen_edge.evaluation.sandbox.sandbox.Zygote", refuse)
        outcome = made.run(PrintedProgram(program="1"))
    assert outcome.kind == FailureKind.SANDBOX
    assert outcome.message == "the sandbox did not start: no memory"
