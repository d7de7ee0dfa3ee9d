"""What the sandbox is given, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from codegen_edge.errors import InvalidInputError


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedProgram:
    """A program that defines a function, and tests that call it: HumanEval's kind.

    Attributes:
        program: the whole text that defines `entry_point`: prompt and completion.
        tests: text that defines `check(candidate)`, which asserts.
        entry_point: name of the function under test.
        assertions: how many assertions a right program reaches, measured on the canonical solution; None: at least one.
        reference_seconds: CPU seconds that the canonical solution takes on this machine; limits grow with it.
    """

    program: str
    tests: str
    entry_point: str
    assertions: int | None = None
    reference_seconds: float | None = None

    def __post_init__(self) -> None:
        if not self.entry_point.isidentifier():
            raise InvalidInputError(f"entry_point must be a name, got {self.entry_point!r}")
        if self.assertions is not None and self.assertions < 0:
            raise InvalidInputError(f"assertions must be >= 0, got {self.assertions}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrintedProgram:
    """A program whose last printed value is what counts: MTPB's kind.

    The value is the first argument of the last call of `print`. A last top-level statement that is no such call is
    wrapped in one, as the paper's `mtpb_exec.py` does.

    Attributes:
        program: the whole text.
    """

    program: str


class FailureKind(StrEnum):
    """Why a program did not pass."""

    SYNTAX = "syntax"  # it is not Python
    NAME = "name"  # a name is not defined, the function under test included
    ASSERTION = "assertion"  # an assertion of the tests does not hold
    EXCEPTION = "exception"  # it raised anything else
    TIMEOUT = "timeout"  # it used up its wall clock or CPU time
    MEMORY = "memory"  # it asked for more memory than it may have
    OUTPUT = "output"  # it printed or wrote too much, or printed a value that has no literal form
    EXIT = "exit"  # it ended without a verdict
    FORGED = "forged"  # its verdict was wrong: another nonce, or another number of assertions
    SANDBOX = "sandbox"  # the sandbox or the tests failed; it says nothing about the program


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a program.

    Attributes:
        passed: of a CheckedProgram, the verdict; of a PrintedProgram, that it ended well and a value came back.
        kind: why it did not pass; None exactly when it did.
        message: one line of bounded length, such as "NameError: name 'x' is not defined"; empty when it passed.
        seconds: wall time of the program, without the start of the sandbox.
        assertions: how many the tests reached and found to hold, where it passed.
        value: of a PrintedProgram, rebuilt by `values.decode`. A program that raised after a `print` did not pass, yet
            has its value: the published checker of MTPB counts it.
    """

    passed: bool
    kind: FailureKind | None
    message: str
    seconds: float
    assertions: int = 0
    value: object | None = None

    def __post_init__(self) -> None:
        assert self.passed == (self.kind is None), "an outcome has a kind exactly when it did not pass"
