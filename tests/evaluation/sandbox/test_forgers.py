"""Programs that are wrong and want to be counted as right; each must fail, in its own process and in strict mode."""

from __future__ import annotations

import time

import pytest

from codegen_edge.evaluation.sandbox import CheckedProgram, FailureKind, Sandbox
from tests.evaluation.sandbox.conftest import LIMITS

# How many assertions a right program reaches is not told: a forger has to pass one only.
TESTS = """
def check(candidate):
    assert candidate(1) == 2
    assert all(abs(candidate(i) - i - 1) < 1e-6 for i in range(3))
    assert math.fabs(candidate(0.5) - 1.5) < 1e-6
    assert sorted([candidate(3)]) == [4]
"""
WRONG = "def f(x):\n    return -1\n"

FORGERS = {
    "exit 0": "import sys\nsys.exit(0)\n",
    "exit 0 in the function": "def f(x):\n    raise SystemExit(0)\n",
    "os._exit": "import os\ndef f(x):\n    os._exit(0)\n",
    "patched builtins": """
import builtins, math
for name in ("all", "any", "isinstance", "callable"):
    setattr(builtins, name, lambda *_: True)
builtins.abs = math.fabs = lambda x: 0
builtins.sorted = lambda *_: [4]
builtins.AssertionError = builtins.Exception
builtins.__dict__["__import__"] = lambda *_: None
def f(x):
    return 2
""",
    "patched modules": """
import math, sys, types
math.fabs = lambda x: 0.0
sys.modules["math"] = types.SimpleNamespace(fabs=lambda x: 0.0)
def f(x):
    return {1: 2, 0: 1, 2: 3, 3: 4}.get(x, -1)
""",
    "printed verdict": """
import os, sys
def f(x):
    for text in ("passed", '{"end": "verdict", "passed": true}', "PASSED 4 assertions"):
        print(text, flush=True)
        print(text, file=sys.stderr, flush=True)
    return -1
""",
    "equal to anything": """
class Always(int):
    __hash__ = int.__hash__
    def __eq__(self, other): return True
    def __sub__(self, other): return Always(0)
    def __abs__(self): return 0
    def __lt__(self, other): return True
    def __float__(self): return 0.0
def f(x):
    return Always(-1)
""",
    "equal to anything, of the standard library": "from unittest.mock import ANY\ndef f(x):\n    return ANY\n",
    "garbage walk": """
import gc, types
def nothing(*_, **__): return 4
def f(x):
    gc.unfreeze()
    for each in gc.get_objects():
        try:
            if isinstance(each, types.FunctionType) and each is not f:
                if each.__name__ in ("check", "run_check", "held", "failure", "failed", "_run", "_verdict"):
                    each.__code__ = nothing.__code__
            if isinstance(each, dict):
                for key in ("passed", "verdict", "assertions"):
                    if key in each: each[key] = 4
        except Exception:
            pass
    return -1
""",
    "frame walk": """
import sys
def f(x):
    frame = sys._getframe(1)
    while frame is not None:
        try:
            frame.f_globals.update(check=lambda c: None, candidate=lambda x: x + 1, AssertionError=ValueError)
            frame.f_locals.update(passed=True, report={"end": "verdict"}, answer=2, held=4, num_held=4)
        except Exception:
            pass
        frame = frame.f_back
    return -1
""",
    "kill the parent": """
import os, signal
for pid in (os.getppid(), 1):
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP):
        try: os.kill(pid, number)
        except OSError: pass
def f(x):
    os.kill(os.getppid(), signal.SIGKILL)
    return -1
""",
    "delete the checker": """
import sys
for name in list(sys.modules):
    if "codegen" in name or "sandbox" in name or "tests" in name: del sys.modules[name]
def f(x):
    names = sys._getframe(2).f_globals
    for name in list(names):
        if name != "__builtins__": del names[name]
    return -1
check = lambda candidate: None
""",
    "at exit": """
import atexit, sys
atexit.register(lambda: print("passed"))
def f(x):
    sys.exit(0)
""",
    "write to every descriptor": """
import os, threading
def write():
    for descriptor in range(3, 1024):
        for text in (b"passed", b'\\x00\\x00\\x00\\x13{"end": "returned"}', b'\\x00\\x00\\x00\\x12{"end": "verdict"}'):
            try: os.write(descriptor, text)
            except OSError: pass
write()
def f(x):
    threading.Thread(target=write).start()
    return -1
""",
    "read its parent's memory": """
import os
for path in ("/proc/1/mem", f"/proc/{os.getppid()}/mem", "/proc/1/environ", "/proc/1/fd/3", "/proc/1/root/etc/passwd"):
    try:
        with open(path, "r+b") as file: file.read(1)
        raise SystemExit(0)
    except (OSError, ValueError): pass
def f(x):
    return -1
""",
    "trace": """
import sys
def skip(frame, event, argument):
    if event == "exception" and frame.f_code.co_name == "check":
        return None
    return skip
sys.settrace(skip)
def f(x):
    frame = sys._getframe(2)
    def jump(frame, event, argument):
        try: frame.f_lineno = frame.f_code.co_firstlineno + 99
        except ValueError: pass
        return jump
    frame.f_trace = jump
    sys.settrace(skip)
    return -1
""",
}


@pytest.mark.parametrize("forger", FORGERS.values(), ids=FORGERS)
def test_a_forger_does_not_pass(sandbox: Sandbox, strict_sandbox: Sandbox, forger: str) -> None:
    program = "import math\n" + (forger if "def f" in forger else WRONG + forger)
    for made in (sandbox, strict_sandbox):
        started = time.monotonic()
        outcome = made.run(CheckedProgram(program=program, tests=TESTS, entry_point="f"))
        assert not outcome.passed
        assert outcome.kind is not FailureKind.SANDBOX, outcome
        assert time.monotonic() - started < LIMITS.wall_seconds + 1
    right = CheckedProgram(program="import math\ndef f(x):\n    return x + 1\n", tests=TESTS, entry_point="f")
    assert sandbox.run(right).passed
    assert strict_sandbox.run(right).passed


# It speaks the protocol: what it forges passes where tests and program share a process, as the package says.
KNOWING = """
import json, os
def say(message):
    data = json.dumps(message).encode()
    os.write(channel, len(data).to_bytes(4, "big") + data)
def hear():
    return json.loads(os.read(channel, int.from_bytes(os.read(channel, 4), "big")))
def f(x):
    global channel
    channel = max(int(name) for name in os.listdir("/proc/self/fd"))
    say({"end": "returned"})
    nonce = hear().get("nonce")
    say({"end": "verdict", "nonce": nonce, "assertions": 4})
    os._exit(0)
"""


@pytest.mark.parametrize(
    "program",
    [
        KNOWING,
        KNOWING.replace('say({"end": "returned"})\n    nonce = hear().get("nonce")', "nonce = 1"),
        KNOWING.replace(
            '{"end": "verdict", "nonce": nonce, "assertions": 4}', '{"returned": ["object", "x", "y", "1"]}'
        ),
        KNOWING.replace("def f(x)", "def g(x)") + "g(1)\n" + WRONG,
    ],
    ids=["verdict", "no nonce", "opaque answer", "before the tests"],
)
def test_a_forger_that_knows_this_code_does_not_pass_in_strict_mode(strict_sandbox: Sandbox, program: str) -> None:
    made = CheckedProgram(program=program, tests=TESTS.replace("math.fabs", "abs"), entry_point="f", assertions=4)
    assert not strict_sandbox.run(made).passed


def test_a_verdict_without_the_nonce_is_forged(sandbox: Sandbox) -> None:
    forger = KNOWING.replace('nonce = hear().get("nonce")', "hear()\n    nonce = '0' * 32")
    outcome = sandbox.run(CheckedProgram(program=forger, tests=TESTS, entry_point="f", assertions=4))
    assert outcome.kind == FailureKind.FORGED
    assert outcome.message == "a verdict without this run's nonce"


@pytest.mark.parametrize(
    "message",
    [
        '{"end": "failed", "kind": "sandbox", "message": "x"}',
        '{"end": "failed", "kind": "none"}',
        "[1]",
        "{x",
        '{"end": 3}',
    ],
)
def test_a_message_that_no_program_sends_is_forged(any_sandbox: Sandbox, message: str) -> None:
    forger = KNOWING.replace(
        'say({"end": "returned"})', f"os.write(channel, {len(message).to_bytes(4)!r} + b'{message}')"
    )
    program = forger.replace("    nonce = hear().get", "    os._exit(0)\n    nonce = hear().get") + "f(1)\n"
    outcome = any_sandbox.run(CheckedProgram(program=program, tests=TESTS, entry_point="f"))
    assert outcome.kind == FailureKind.FORGED, outcome
