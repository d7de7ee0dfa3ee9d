"""The processes inside of the sandbox, each by itself in this one, with stand-ins for the kernel and for each other."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from codegen_edge.evaluation.sandbox.frames import ChannelClosedError, FrameError, send
from codegen_edge.evaluation.sandbox.inside import isolation, keeper, warden
from codegen_edge.evaluation.sandbox.inside.assertions import TestsError
from codegen_edge.evaluation.sandbox.inside.candidate import run_program
from codegen_edge.evaluation.sandbox.inside.channel import OwnChannel
from codegen_edge.evaluation.sandbox.inside.failures import failure
from codegen_edge.evaluation.sandbox.inside.restrictions import restrict
from codegen_edge.evaluation.sandbox.job import Job

TESTS = "def check(candidate):\n    assert candidate(1) == LIMIT\n    assert math.fabs(candidate(-2)) == 1\n"
RIGHT = "import math\nLIMIT = 2\ndef f(x):\n    return x + 1\n"


def job(program: str, entry_point: str | None = "f", *, is_strict: bool = False, **limits: Any) -> Job:
    given: dict[str, Any] = {
        "folder": "/tmp",
        "uid": None,
        "processes": 8,
        "wall_seconds": 5.0,
        "cpu_seconds": 1.5,
        "memory_bytes": 1 << 30,
        "output_bytes": 1000,
        "file_bytes": 100,
        "folder_bytes": 100,
        "open_files": 64,
        "stack_bytes": 1 << 20,
    }
    return Job(program=program, entry_point=entry_point, is_strict=is_strict, **{**given, **limits})


@pytest.fixture(autouse=True)
def own_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program's process replaces modules, and the tests' limits must not bind this one."""
    for name in ("builtins", "__main__", "program"):
        monkeypatch.setitem(sys.modules, name, sys.modules.get(name, sys))
    monkeypatch.setattr("codegen_edge.evaluation.sandbox.inside.warden.restrict", lambda job: None)


def heard(given: Job, tests: str = TESTS) -> dict[str, object]:
    """The report of a program that runs in a thread, as its warden hears it."""
    ours, theirs = socket.socketpair()

    def run() -> None:
        with theirs:
            channel = OwnChannel(theirs.fileno(), os.getpid())
            try:
                report = run_program(given, channel)
            except BaseException as exc:  # noqa: BLE001 - as run_candidate does
                report = failure(exc)
            with contextlib.suppress(OSError):  # in strict mode the warden has closed the channel
                channel.send(report)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        return warden.hear(given, ours.fileno(), tests, "the nonce")
    finally:
        ours.close()
        thread.join()


@pytest.mark.parametrize("is_strict", [False, True])
def test_a_verdict_has_the_nonce_and_the_assertions_that_held(is_strict: bool) -> None:
    said = heard(job(RIGHT, is_strict=is_strict))
    assert said == {"end": "verdict", "nonce": "the nonce", "assertions": 2}


@pytest.mark.parametrize("is_strict", [False, True])
@pytest.mark.parametrize(
    ("program", "kind"),
    [("def f(", "syntax"), ("x = 1\0", "syntax"), ("LIMIT = 1", "name"), (RIGHT.replace("x + 1", "[x]"), "assertion")],
)
def test_a_failure_is_reported_by_its_kind(program: str, kind: str, is_strict: bool) -> None:
    said = heard(job(program, is_strict=is_strict))
    assert (said["end"], said["kind"]) == ("failed", kind)


def test_an_answer_that_is_no_plain_value_is_an_error() -> None:
    said = heard(job("import math\nLIMIT = 2\ndef f(x):\n    return f\n"))
    assert said["message"] == "TypeError: the answer is no plain value: an object of type function has no literal form"


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("print(1)\nx = [2]", {"end": "verdict", "nonce": "the nonce", "value": ["list", [2]]}),
        (
            "print(1)\nx = y",
            {"end": "failed", "kind": "name", "message": "NameError: name 'y' is not defined", "value": 1},
        ),
        ("x = y", {"end": "failed", "kind": "name", "message": "NameError: name 'y' is not defined"}),
        ("def f(): pass", {"end": "failed", "kind": "exit", "message": "nothing was printed"}),
        (
            "print(",
            {"end": "failed", "kind": "syntax", "message": "SyntaxError: '(' was never closed (<unknown>, line 1)"},
        ),
        (
            "x = []\nx.append(x)\nprint(x)",
            {
                "end": "failed",
                "kind": "output",
                "message": "the printed value cannot be shown: "
                "the value is nested more than 64 deep, or contains itself",
            },
        ),
        (
            "'x' * 2000",
            {"end": "failed", "kind": "output", "message": "the printed value is larger than 1,000 bytes"},
        ),
    ],
    ids=str,
)
def test_the_last_printed_value_is_reported(program: str, said: dict[str, object]) -> None:
    assert heard(job(program, None)) == said


@pytest.mark.parametrize("is_strict", [False, True])
def test_tests_at_fault_are_no_failure_of_the_program(is_strict: bool) -> None:
    with pytest.raises(TestsError):
        heard(job(RIGHT, is_strict=is_strict), "x = 1")


@pytest.mark.parametrize("is_strict", [False, True])
@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ({"end": "failed", "kind": "sandbox"}, "forged"),
        ({"end": "other"}, "forged"),
        ({"end": "failed", "kind": "exit"}, "exit"),
    ],
)
def test_a_program_may_say_only_what_programs_say(message: dict[str, object], kind: str, is_strict: bool) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send(theirs.fileno(), message)
        assert warden.hear(job(RIGHT, is_strict=is_strict), ours.fileno(), TESTS, "nonce")["kind"] == kind


def test_a_verdict_is_no_message_of_a_strict_program() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send(theirs.fileno(), {"end": "verdict"})
        assert warden.hear(job(RIGHT, is_strict=True), ours.fileno(), TESTS, "nonce")["kind"] == "forged"
        theirs.sendall(b"\xff" * 8)
        with pytest.raises(FrameError):
            warden.hear(job(RIGHT), ours.fileno(), TESTS, "nonce")
    with pytest.raises(ChannelClosedError):
        warden.hear(job(RIGHT), ours.fileno(), TESTS, "nonce")


class Pipes:
    """What a keeper watches."""

    def __init__(self) -> None:
        self.report, self.report_end = os.pipe()
        self.output, self.output_end = os.pipe()
        self.control, self.supervisor = socket.socketpair()

    def watched(self, **limits: Any) -> dict[str, object]:
        given = job("", **limits)
        watched = {"report": self.report, "output": self.output, "control": self.control.fileno()}
        return keeper.watch(given, time.monotonic() + given.wall_seconds, **watched)

    def close(self) -> None:
        for descriptor in (self.report, self.report_end, self.output, self.output_end):
            try:
                os.close(descriptor)
            except OSError:
                continue
        self.control.close()
        self.supervisor.close()


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    made = Pipes()
    yield made
    made.close()


def test_the_keeper_hears_a_report(pipes: Pipes) -> None:
    os.write(pipes.output_end, b"x" * 900)
    send(pipes.report_end, {"end": "verdict"})
    assert pipes.watched() == {"end": "reported", "report": {"end": "verdict"}}


def test_the_keeper_ends_what_takes_too_long_or_prints_too_much(pipes: Pipes) -> None:
    assert pipes.watched(wall_seconds=0.05) == {"end": "timeout"}
    os.write(pipes.output_end, b"x" * 1001)
    assert pipes.watched() == {"end": "output"}


def test_the_keeper_sees_the_warden_and_the_supervisor_end(pipes: Pipes) -> None:
    os.close(pipes.output_end)
    assert pipes.watched(wall_seconds=0.05) == {"end": "timeout"}
    os.close(pipes.report_end)
    assert pipes.watched() == {"end": "died"}
    pipes.supervisor.close()
    assert pipes.watched() == {"end": "cancelled"}


def test_all_limits_are_set_and_none_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: dict[int, tuple[int, int]] = {}

    def record(which: int, pair: tuple[int, int]) -> None:
        limits[which] = pair
        if which == resource.RLIMIT_AS:
            raise ValueError("macOS refuses")

    hard = {resource.RLIMIT_NOFILE: 32}
    monkeypatch.setattr(resource, "setrlimit", record)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (0, hard.get(which, resource.RLIM_INFINITY)))
    restrict(job(""))
    assert limits[resource.RLIMIT_CPU] == (2, 3)
    assert limits[resource.RLIMIT_AS] == (1 << 30, 1 << 30)
    assert limits[resource.RLIMIT_FSIZE] == (100, 100)
    assert limits[resource.RLIMIT_NOFILE] == (32, 32)
    assert limits[resource.RLIMIT_STACK] == (1 << 20, 1 << 20)
    assert limits[resource.RLIMIT_CORE] == (0, 0)
    assert limits[resource.RLIMIT_NPROC] == (8, 8)


class FakeKernel:
    """Takes calls by name; refuses those whose first text is in `refused`."""

    def __init__(self, *refused: bytes) -> None:
        self.refused = refused
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.calls.append((name, arguments))
            return -1 if arguments[0] in self.refused else 0

        return call

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


def test_namespaces_come_with_empty_folders_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = FakeKernel()
    monkeypatch.setattr(isolation, "_LIBC", kernel)
    isolation.enter_namespaces(4096)
    assert kernel.names() == ["unshare", "mount", "mount", "mount"]
    folders = [arguments[1] for _, arguments in kernel.calls[1:]]
    assert folders == [b"/", b"/tmp", b"/dev/shm"]
    assert all(arguments[4].startswith(b"size=4096,") for _, arguments in kernel.calls[2:])


def test_processes_are_hidden_where_they_cannot_be_mounted(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = FakeKernel(b"proc")
    monkeypatch.setattr(isolation, "_LIBC", kernel)
    isolation.mount_own_processes()
    assert [arguments[2] for _, arguments in kernel.calls] == [b"proc", b"tmpfs"]
    monkeypatch.setattr(isolation, "_LIBC", FakeKernel(b"proc", b"tmpfs"))
    with pytest.raises(OSError, match="Success"):
        isolation.mount_own_processes()


def test_privileges_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, users = FakeKernel(), []
    monkeypatch.setattr(isolation, "_LIBC", kernel)
    for name in ("setgroups", "setresgid", "setresuid"):
        monkeypatch.setattr(os, name, lambda *given: users.append(given))
    monkeypatch.setattr(os, "getuid", lambda: 61200)
    isolation.give_up_privileges(61200)
    assert users == [([],), (61200,) * 3, (61200,) * 3]
    assert kernel.names() == ["prctl", "prctl", "capset", "prctl"]
    isolation.adopt_orphans()
    isolation.end_with_parent(9)
    assert kernel.calls[-1] == ("prctl", (1, 9, 0, 0, 0))
    monkeypatch.setattr(isolation, "IS_LINUX", False)
    isolation.give_up_privileges(None)
    assert len(kernel.calls) == 6


def test_descendants_are_listed_and_ended() -> None:
    before = set(isolation.descendants())
    child = os.spawnv(os.P_NOWAIT, "/bin/sh", ["sh", "-c", "sleep 60 & sleep 60"])
    give_up_at = time.monotonic() + 5
    while len(set(isolation.descendants()) - before) < 3 and time.monotonic() < give_up_at:
        time.sleep(0.01)
    found = set(isolation.descendants()) - before
    assert child in found
    assert len(found) == 3
    for pid in found:
        os.kill(pid, 9)
    os.waitpid(child, 0)
