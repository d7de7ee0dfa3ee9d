"""Right programs pass, wrong ones fail with their kind, hostile ones (rows X01 to X10) do neither harm nor pass."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.sandbox import CheckedProgram, FailureKind, Limits, Outcome, PrintedProgram, Sandbox
from tests.evaluation.sandbox.conftest import LIMITS, bubblewrap_sandbox

ADD = "import math\n\ndef twice(x):\n    return x * 2\n\ndef add_one(x):\n"
TESTS = """
METADATA = {}

def check(candidate):
    assert candidate(1) == 2
    assert all(candidate(i) == i + 1 for i in range(3))
    assert math.fabs(candidate(0.5) - twice(0.75)) < 1e-9
"""
RIGHT = ADD + "    return x + 1\n"


def checked(program: str, *, tests: str = TESTS, assertions: int | None = 3) -> CheckedProgram:
    return CheckedProgram(program=program, tests=tests, entry_point="add_one", assertions=assertions)


def run_printed(sandbox: Sandbox, program: str) -> Outcome:
    return sandbox.run(PrintedProgram(program=program))


def test_a_right_program_passes(any_sandbox: Sandbox) -> None:
    outcome = any_sandbox.run(checked(RIGHT))
    assert outcome.passed, outcome
    assert (outcome.kind, outcome.message, outcome.assertions, outcome.value) == (None, "", 3, None)
    assert 0 < outcome.seconds < LIMITS.wall_seconds


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        ("    return x +\n", FailureKind.SYNTAX, "SyntaxError: invalid syntax"),
        ("    return '\0'\n", FailureKind.SYNTAX, "null bytes"),
        ("    return '\ud800'\n", FailureKind.SYNTAX, "surrogates not allowed"),
        ("    return" + "(" * 300, FailureKind.SYNTAX, "too many nested parentheses"),
        ("    return y\n", FailureKind.NAME, "NameError: name 'y' is not defined"),
        ("    pass\ndel add_one\n", FailureKind.NAME, "NameError: name 'add_one' is not defined"),
        ("", FailureKind.SYNTAX, "IndentationError"),
        ("    return x\n", FailureKind.ASSERTION, "AssertionError"),
        ("    return x[0]\n", FailureKind.EXCEPTION, "TypeError: 'int' object is not subscriptable"),
        ("    return add_one(x)\n", FailureKind.EXCEPTION, "RecursionError: maximum recursion depth exceeded"),
        ("    return input()\n", FailureKind.EXCEPTION, "EOFError"),
        ("    return bytearray(100 << 30)\n", FailureKind.MEMORY, "MemoryError"),
        ("    exit()\n", FailureKind.EXIT, "SystemExit"),
        ("    return add_one\n", FailureKind.EXCEPTION, "has no literal form"),
        (
            f"    return x + 1\nLINE = '{'x' * (1 << 20)}'\nraise ValueError(LINE)",
            FailureKind.EXCEPTION,
            "ValueError: x",
        ),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else value,
)
def test_a_wrong_program_fails_with_its_kind(
    sandbox: Sandbox, strict_sandbox: Sandbox, body: str, kind: FailureKind, message: str
) -> None:
    for made in (sandbox, strict_sandbox):
        outcome = made.run(checked(ADD + body))
        assert (outcome.passed, outcome.kind) == (False, kind), outcome
        assert message in outcome.message
        assert len(outcome.message) <= 300
        assert "\n" not in outcome.message


def test_a_number_of_assertions_other_than_the_canonical_is_no_pass(any_sandbox: Sandbox) -> None:
    outcome = any_sandbox.run(checked(RIGHT, assertions=4))
    assert outcome.kind == FailureKind.FORGED
    assert outcome.message == "check() returned after 3 assertions, a right program reaches 4"
    empty = "def check(candidate):\n    pass\n"
    assert any_sandbox.run(checked(RIGHT, tests=empty, assertions=None)).kind == FailureKind.FORGED
    assert any_sandbox.run(checked(RIGHT, tests=empty, assertions=0)).passed


def test_bad_tests_say_nothing_about_the_program(any_sandbox: Sandbox) -> None:
    for tests, message in {"def check(": "no Python", "x = 1": "define no function check"}.items():
        outcome = any_sandbox.run(checked(RIGHT, tests=tests))
        assert outcome.kind == FailureKind.SANDBOX
        assert message in outcome.message


def test_sys_exit_in_check_is_no_pass(any_sandbox: Sandbox) -> None:
    tests = TESTS + "    import sys\n    sys.exit(0)\n"
    assert any_sandbox.run(checked(RIGHT, tests=tests)).kind == FailureKind.EXIT


def test_no_main_block_runs_as_in_human_eval(sandbox: Sandbox) -> None:
    assert sandbox.run(checked(RIGHT + "if __name__ == '__main__':\n    raise ValueError\n")).passed


def test_programs_are_compiled_without_the_sandboxes_own_future(any_sandbox: Sandbox) -> None:
    outcome = run_printed(any_sandbox, "def f(x: int): pass\nf.__annotations__['x'] is int")
    assert outcome.value is True
    tests = "def check(c: undefined):\n    assert True\n"
    assert any_sandbox.run(checked(RIGHT, tests=tests, assertions=1)).kind == FailureKind.NAME


def test_the_end_of_the_program_is_no_exception_that_tests_may_want(any_sandbox: Sandbox) -> None:
    tests = """
def check(candidate):
    try:
        candidate(-1)
    except BaseException:
        assert True
    else:
        assert False
"""
    ends = "def add_one(x):\n    import os\n    os._exit(0)\n"
    outcome = any_sandbox.run(checked(ends, tests=tests, assertions=1))
    assert outcome.kind == FailureKind.EXIT, outcome
    assert any_sandbox.run(checked("def add_one(x):\n    raise ValueError\n", tests=tests, assertions=1)).passed


def test_an_answer_that_is_iterated_over_is_one(any_sandbox: Sandbox) -> None:
    program = checked("def add_one(x):\n    yield x + 1\n", tests="def check(c):\n    assert list(c(1)) == [2]\n")
    assert any_sandbox.run(CheckedProgram(program=program.program, tests=program.tests, entry_point="add_one")).passed


def test_printed_values_come_back(any_sandbox: Sandbox) -> None:
    outcome = run_printed(any_sandbox, "import numpy as np\nprint(1)\nx = [np.arange(3), (1.5, None), {'a': {2}}]")
    assert outcome.passed, outcome
    assert isinstance(outcome.value, list)
    np.testing.assert_array_equal(outcome.value[0], [0, 1, 2])
    assert outcome.value[1:] == [(1.5, None), {"a": {2}}]


def test_none_can_be_printed(sandbox: Sandbox) -> None:
    outcome = run_printed(sandbox, "print(None)")
    assert outcome.passed
    assert outcome.value is None


@pytest.mark.parametrize(
    ("program", "kind", "value"),
    [
        ("", FailureKind.EXIT, None),
        ("print()", FailureKind.EXIT, None),
        ("def f():\n    print(1)\n", FailureKind.EXIT, None),
        ("print(", FailureKind.SYNTAX, None),
        ("print(7)\nx = y", FailureKind.NAME, 7),
        ("print(7)\n1 / 0", FailureKind.EXCEPTION, 7),
        ("print(7)\nimport sys\nsys.exit()", FailureKind.EXIT, None),
        ("print(7)\nraise SystemExit(0)", FailureKind.EXIT, None),
        ("print(7)\nimport os\nos._exit(0)", FailureKind.EXIT, None),
        ("x = []\nx.append(x)\nprint(x)", FailureKind.OUTPUT, None),
        ("print('x' * (2 << 20))", FailureKind.OUTPUT, None),
        ("for _ in range(20):\n    print('x' * 100_000)\n", FailureKind.OUTPUT, None),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else value,
)
def test_a_printed_program_that_does_not_end_well_did_not_pass(
    sandbox: Sandbox, program: str, kind: FailureKind, value: object
) -> None:
    outcome = run_printed(sandbox, program)
    assert (outcome.passed, outcome.kind, outcome.value) == (False, kind, value), outcome


ENDLESS = {
    "loop": "while True:\n    pass",
    "c code": "int('9' * 4000) ** (10 ** 8)",
    "regular expression": "import re\nre.match('(a+)+$', 'a' * 64 + 'b')",
    "sleep": "import time\ntime.sleep(100)",
    "ignored signals": """
import signal
for number in (1, 2, 14, 15, 24):
    signal.signal(number, signal.SIG_IGN)
while True:
    pass
""",
    "bare except": "while True:\n    try:\n        while True: pass\n    except:\n        pass",
}


@pytest.fixture(scope="module")
def hasty_sandbox() -> Iterator[Sandbox]:
    with bubblewrap_sandbox(Limits(wall_seconds=0.7)) as made:
        yield made


@pytest.mark.parametrize("program", ENDLESS.values(), ids=ENDLESS)
@pytest.mark.quiet
def test_x01_an_endless_program_is_ended_in_time(hasty_sandbox: Sandbox, program: str) -> None:
    started = time.monotonic()
    outcome = run_printed(hasty_sandbox, f"print(7)\n{program}")
    assert (outcome.kind, outcome.message) == (FailureKind.TIMEOUT, "still running after 0.7 s")
    assert time.monotonic() - started < 0.7 + 1.0


def test_x01_cpu_time_ends_before_wall_time() -> None:
    with bubblewrap_sandbox(Limits(wall_seconds=20, cpu_seconds=1)) as made:
        outcome = run_printed(made, ENDLESS["ignored signals"])
    assert outcome.kind == FailureKind.TIMEOUT
    assert "s of CPU time" in outcome.message


FORK_BOMB = """
import os, time
count = 0
try:
    while count < 500:
        if os.fork() == 0:
            time.sleep(60)
        count += 1
except OSError:
    pass
print(count)
"""
HEAVY_FORKS = """
import os, time
for _ in range(8):
    if os.fork() == 0:
        break
x = b"x" * (250 << 20)
time.sleep(0.5)
print(1)
"""
THREADS = """
import threading, time
count = 0
try:
    while count < 500:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        count += 1
except RuntimeError:
    pass
print(count)
"""


@pytest.mark.parametrize("program", [FORK_BOMB, THREADS], ids=["forks", "threads"])
def test_x02_processes_and_threads_are_counted(sandbox: Sandbox, program: str) -> None:
    if sandbox.pids_limit == "none":
        pytest.skip("nothing limits the processes of user 0 here: no control group can be made")
    outcome = run_printed(sandbox, program)
    assert outcome.passed, outcome
    assert isinstance(outcome.value, int)
    assert 4 <= outcome.value <= LIMITS.processes + 8
    assert run_printed(sandbox, "import os\nos.getpid()").value == 2


def test_x03_memory_is_bounded(sandbox: Sandbox) -> None:
    outcome = run_printed(sandbox, "x = []\nwhile True:\n    x.append(bytearray(64 << 20))\nprint(1)")
    assert outcome.kind == FailureKind.MEMORY, outcome
    if sandbox.pids_limit != "cgroup":
        return
    outcome = run_printed(sandbox, HEAVY_FORKS)
    assert outcome.kind in (FailureKind.MEMORY, FailureKind.TIMEOUT), outcome
    assert run_printed(sandbox, "1").passed


def test_x04_output_and_files_are_bounded(sandbox: Sandbox) -> None:
    piece = "('x' * (1 << 20))"
    for program in (
        f"while True:\n    print({piece})",
        f"import os\nwhile True:\n    os.write(2, {piece}.encode())",
        f"with open('large', 'w') as file:\n    while True:\n        file.write({piece})",
        f"for name in 'abcdef':\n    with open(name, 'w') as file:\n        file.write({piece})",
        "import os\nfor i in range(100_000):\n    os.mknod(str(i))",
    ):
        outcome = run_printed(sandbox, program)
        assert outcome.kind == FailureKind.OUTPUT, outcome


def test_x06_the_host_is_out_of_reach(sandbox: Sandbox, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "of the host")
    program = """
import os, socket

def fails(action):
    try:
        action()
    except OSError:
        return True
    return False

def reach(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(0.5)
        client.connect(address)

tried = {
    "network": fails(lambda: reach(socket.AF_INET, ("1.1.1.1", 53))),
    "loopback": fails(lambda: reach(socket.AF_INET, ("127.0.0.1", 80))),
    "passwords": fails(lambda: open("/etc/passwd")),
    "home": fails(lambda: os.listdir(os.path.expanduser("~/.ssh"))),
    "folder": fails(lambda: os.listdir(FOLDER)),
    "root": fails(lambda: open("/x", "w")),
    "system": fails(lambda: open("/usr/x", "w")),
    "device": fails(lambda: open("/dev/x", "w")),
    "python": fails(lambda: open(os.__file__, "a")),
    "process": fails(lambda: open("/proc/sys/kernel/hostname", "w")),
    "user": fails(lambda: os.setuid(0)),
    "chroot": fails(lambda: os.chroot(".")),
}
print([[name for name, failed in tried.items() if not failed], os.getuid(), sorted(os.environ), os.listdir(".")])
"""
    outcome = run_printed(sandbox, f"FOLDER = {str(tmp_path)!r}\n{program}")
    assert isinstance(outcome.value, list), outcome
    reached, user, environment, files = outcome.value
    assert (reached, files) == ([], [])
    assert user != 0
    assert environment == ["MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"]


def test_limits_stretch_with_the_reference_and_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(wall_seconds=8, cpu_seconds=2)
    assert limits.for_reference(None) == limits.for_reference(0.1) == limits
    assert limits.for_reference(2.0) == Limits(wall_seconds=32, cpu_seconds=8)
    assert limits.scaled(1.5) == Limits(wall_seconds=12, cpu_seconds=3)


def test_calibration_lengthens_the_times(without_bubblewrap: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(limits=Limits(wall_seconds=0.5), allow_unsandboxed=True) as made:
        assert run_printed(made, "import time\ntime.sleep(0.7)").kind == FailureKind.TIMEOUT
        monkeypatch.setattr("codegen_edge.evaluation.sandbox.sandbox.REFERENCE_SECONDS", 1e-9)
        assert made.calibrate() == 20.0
        assert run_printed(made, "import time\ntime.sleep(0.7)").passed
        monkeypatch.setattr("codegen_edge.evaluation.sandbox.sandbox.REFERENCE_SECONDS", 1e9)
        assert made.calibrate() == 1.0


@pytest.mark.parametrize("values", [{"wall_seconds": 0}, {"memory_bytes": -1}, {"cpu_seconds": float("nan")}])
def test_limits_check_themselves(values: dict[str, float]) -> None:
    with pytest.raises(InvalidInputError, match=f"{next(iter(values))} must be > 0"):
        Limits(**values)  # type: ignore[arg-type]


def test_programs_check_themselves() -> None:
    with pytest.raises(InvalidInputError, match="entry_point must be a name"):
        CheckedProgram(program="", tests="", entry_point="a.b")
    with pytest.raises(InvalidInputError, match="assertions must be >= 0"):
        CheckedProgram(program="", tests="", entry_point="a", assertions=-1)
