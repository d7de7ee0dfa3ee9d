"""The parts that run inside of the sandbox, tried outside: counting, printing, imports, failures, frames, calls."""

from __future__ import annotations

import ast
import builtins
import errno
import math
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from codegen_edge.evaluation import sandbox
from codegen_edge.evaluation.sandbox.frames import ChannelClosedError, FrameError, receive, send
from codegen_edge.evaluation.sandbox.inside.assertions import TestsError, compile_tests, names_in, run_check
from codegen_edge.evaluation.sandbox.inside.channel import OwnChannel
from codegen_edge.evaluation.sandbox.inside.failures import described, failure, one_line
from codegen_edge.evaluation.sandbox.inside.imports import imported_names
from codegen_edge.evaluation.sandbox.inside.printing import LastPrint, with_last_value_printed
from codegen_edge.evaluation.sandbox.inside.remote import RemoteError, RemoteProgram, serve_calls

FOLDER = Path(sandbox.__file__).parent
TESTS = """
def helper(value):
    assert value == 2, "helper"

def check(candidate):
    for _ in range(3):
        assert candidate(1) == 2
    helper(candidate(1))
"""


def test_inside_imports_nothing_but_the_standard_library_and_itself() -> None:
    allowed = {"frames", "job", "values", "inside"}
    prefix = "codegen_edge.evaluation.sandbox."
    files = [*FOLDER.glob("inside/*.py"), *(FOLDER / f"{name}.py" for name in ("frames", "job", "values"))]
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                if module.startswith(prefix):
                    assert module.removeprefix(prefix).partition(".")[0] in allowed, f"{path.name}: {module}"
                else:
                    name = module.partition(".")[0]
                    assert name in sys.stdlib_module_names or name == "numpy", f"{path.name}: {module}"


def test_assertions_that_hold_are_counted() -> None:
    assert run_check(compile_tests(TESTS), {}, lambda x: x + 1) == 4


def test_an_assertion_that_does_not_hold_is_raised() -> None:
    with pytest.raises(AssertionError):
        run_check(compile_tests(TESTS), {}, lambda x: x)


@pytest.mark.parametrize("tests", ["def check(:", "x = 1\0", "assert " + "(" * 300])
def test_tests_that_are_no_python_are_our_fault(tests: str) -> None:
    with pytest.raises(TestsError, match="the tests are no Python"):
        compile_tests(tests)


def test_a_check_of_the_program_is_not_the_tests_check() -> None:
    with pytest.raises(TestsError, match="define no function check"):
        compile_tests("METADATA = {}")
    with pytest.raises(KeyError):
        run_check(compile_tests("if 0:\n    def check(c): pass"), {"check": lambda candidate: None}, len)


def test_names_of_tests_leave_out_builtins_and_dunders() -> None:
    code = compile_tests("def check(c):\n    assert abs(poly(c(1))) < math.pi\n    x = [f(i) for i in range(__n__)]")
    assert {"poly", "math", "f"} <= names_in(code)
    assert not {"abs", "range", "__n__"} & names_in(code)


@pytest.mark.parametrize(
    ("program", "last_line"),
    [
        ("f(2)", "print(f(2))"),
        ("x = f()", "x = print(f())"),
        ("x += 1", "x += print(1)"),
        ("x: int = 1", "x: int = print(1)"),
        ("x: int", "x: int"),
        ("print(1)", "print(1)"),
        ("print_all(1)", "print_all(1)"),
        ("a.print(1)", "print(a.print(1))"),
        ("def f():\n    return 1", "    return 1"),
        ("for i in x:\n    i", "    i"),
        ("if x:\n    y", "    y"),
        ("", ""),
    ],
)
def test_the_last_value_is_printed_as_mtpb_does(program: str, last_line: str) -> None:
    lines = ast.unparse(with_last_value_printed(program)).splitlines()
    assert (lines[-1] if lines else "") == last_line


def test_the_last_print_is_remembered(capsys: pytest.CaptureFixture[str]) -> None:
    last_print = LastPrint()
    assert last_print.arguments is None
    last_print(1)
    last_print([2], 3, sep="-")
    assert last_print.arguments == ([2], 3)
    assert capsys.readouterr().out == "1\n[2]-3\n"


def test_imports_are_copies_that_patching_does_not_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import math\nimport os.path as p, os.path\nfrom math import floor as down\nfrom . import x\nimport absent"
    )
    found: dict[str, Any] = imported_names(program + "\nfrom math import absent\nfrom os import *\n")
    assert found.keys() == {"math", "p", "os", "down"}
    monkeypatch.setattr(math, "fabs", lambda x: 0)
    assert found["math"].fabs(-1) == 1
    assert found["down"](1.5) == 1
    assert found["os"].sep == os.sep
    assert imported_names(program, "math".__eq__).keys() == {"math"}


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise SystemExit(0)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (SyntaxError("no"), "syntax", "SyntaxError: no"),
        (NameError("name 'x' is not defined"), "name", "NameError: name 'x' is not defined"),
        (UnboundLocalError("x"), "name", "UnboundLocalError: x"),
        (AssertionError(), "assertion", "AssertionError"),
        (MemoryError(), "memory", "MemoryError"),
        (SystemExit(0), "exit", "SystemExit: 0"),
        (OSError(errno.EFBIG, "large"), "output", "OSError: [Errno 27] large"),
        (ValueError("two\nlines"), "exception", "ValueError: two lines"),
        (KeyboardInterrupt(), "exception", "KeyboardInterrupt"),
        (UnspeakableError(), "exception", "UnspeakableError: (its text cannot be shown)"),
    ],
)
def test_failures_have_kinds_and_one_line(error: BaseException, kind: str, message: str) -> None:
    report = failure(error)
    assert (report["kind"], report["message"]) == (kind, message)


def test_a_long_message_is_cut() -> None:
    assert len(one_line("x" * 10_000)) == 300
    assert len(described(ValueError("y" * 10_000))) < 320


def test_frames_come_back_and_anything_else_is_refused() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send(ours.fileno(), {"a": [1, "\ud800"]})
        assert receive(theirs.fileno(), 100) == {"a": [1, "\ud800"]}
        for payload in (b"\x00\x00\x00\x02[]", b"\x00\x00\x00\x02{x", b"\xff\xff\xff\xff"):
            ours.sendall(payload)
            with pytest.raises(FrameError):
                receive(theirs.fileno(), 100)
        ours.sendall(b"\x00\x00")
        ours.close()
        with pytest.raises(ChannelClosedError):
            receive(theirs.fileno(), 100)
    with pytest.raises(ChannelClosedError):
        receive(theirs.fileno(), 100)


@contextmanager
def served(namespace: dict[str, object]) -> Iterator[RemoteProgram]:
    ours, theirs = socket.socketpair()
    with theirs:
        thread = threading.Thread(target=serve_calls, args=(OwnChannel(theirs.fileno(), os.getpid()), namespace))
        thread.start()
        try:
            yield RemoteProgram(ours.fileno())
        finally:
            ours.close()
            thread.join()


def test_a_remote_function_answers_and_raises() -> None:
    def function(kind: str) -> object:
        if kind == "custom":
            raise sandbox.values.ValueEncodingError("mine")
        if kind == "unicode":
            b"\xff".decode()
        return {"exit": sys.exit, "float": lambda: (1.5, {2})}[kind]()

    with served({"function": function, "LIMIT": [1], "odd": object(), "text": "x"}) as program:
        remote = program.function("function")
        assert remote("float") == (1.5, {2})
        assert remote(kind="float") == (1.5, {2})
        for kind, error in {
            "exit": SystemExit,
            "absent": KeyError,
            "custom": RemoteError,
            "unicode": RemoteError,
        }.items():
            with pytest.raises(error):
                remote(kind)
        with pytest.raises(sandbox.values.ValueEncodingError):
            remote(len)
        with pytest.raises(KeyError):
            program.function("missing")()
        assert program.defines("function")
        assert not program.defines("missing")
        assert not program.defines("LIMIT")


def test_tests_find_the_programs_functions_values_and_imports() -> None:
    code = compile_tests("def check(c):\n    assert math.floor(poly(LIMIT)) == c(odd)")
    with served({"poly": lambda x: x + 0.5, "LIMIT": 3, "odd": object(), "math": "patched"}) as program:
        found: dict[str, Any] = program.namespace(code, "import math\nimport sys\nLIMIT = 3")
        assert found.keys() == {"math", "poly", "LIMIT", "__builtins__"}
        assert found["math"].floor(found["poly"](found["LIMIT"])) == 3
        assert found["__builtins__"] is builtins


@pytest.mark.parametrize("answer", [{}, {"names": 3}, {"names": {"f": ["value", ["absent"]]}}])
def test_an_answer_of_another_form_is_an_error(answer: dict[str, object]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send(theirs.fileno(), answer)
        with pytest.raises((FrameError, ValueError)):
            RemoteProgram(ours.fileno()).namespace(compile_tests("def check(c):\n    f(c)"), "")
    with pytest.raises(ChannelClosedError):
        RemoteProgram(ours.fileno()).defines("f")
