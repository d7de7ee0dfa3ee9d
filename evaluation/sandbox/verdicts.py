"""From what the keeper says to an outcome. Whatever a program may have written is checked here, outside."""

from __future__ import annotations

import hmac
import signal

from codegen_edge.evaluation.sandbox.job import Job
from codegen_edge.evaluation.sandbox.programs import CheckedProgram, FailureKind, Outcome, PrintedProgram
from codegen_edge.evaluation.sandbox.values import ValueEncodingError, decode

MAX_MESSAGE = 300


def failed(kind: FailureKind, message: str, seconds: float, value: object | None = None) -> Outcome:
    """An outcome that did not pass; its message is cut to one line."""
    line = " ".join(message[: 4 * MAX_MESSAGE].split())[:MAX_MESSAGE]
    # A lone surrogate can be written into no UTF-8 file.
    line = line.encode("utf-8", "replace").decode()
    return Outcome(passed=False, kind=kind, message=line, seconds=seconds, value=value)


def outcome_of(
    program: CheckedProgram | PrintedProgram, job: Job, nonce: str, said: dict[str, object], *, memory_was_full: bool
) -> Outcome:
    """Judge a run.

    Args:
        program: what was run.
        job: with which limits.
        nonce: that a true verdict carries.
        said: by the keeper.
        memory_was_full: whether the kernel killed a process of this run for its memory.
    """
    given, report = said.get("seconds"), said.get("report")
    seconds = float(given) if isinstance(given, int | float) else 0.0
    stopped = _stopped(job, said, memory_was_full=memory_was_full)
    if stopped is not None:
        return failed(*stopped, seconds)
    assert isinstance(report, dict), "what was not stopped has a report"
    if report.get("end") == "exited":
        return _exited(job, report, seconds)
    if report.get("end") == "failed":
        return _reported_failure(report, seconds)
    if not hmac.compare_digest(str(report.get("nonce")).encode(errors="replace"), nonce.encode()):
        return failed(FailureKind.FORGED, "a verdict without this run's nonce", seconds)
    if isinstance(program, CheckedProgram):
        return _checked(program, report.get("assertions"), seconds)
    return _printed(report, seconds)


def _stopped(job: Job, said: dict[str, object], *, memory_was_full: bool) -> tuple[FailureKind, str] | None:
    """Why the keeper took the program down before its warden could report."""
    if said["end"] == "timeout":
        return FailureKind.TIMEOUT, f"still running after {job.wall_seconds:.1f} s"
    if memory_was_full:
        return FailureKind.MEMORY, "killed: its processes together used too much memory"
    if said["end"] == "output":
        return FailureKind.OUTPUT, f"printed more than {job.output_bytes:,} bytes"
    if said["end"] != "reported" or not isinstance(said.get("report"), dict):
        return FailureKind.EXIT, "the process above it ended without a verdict"
    return None


def _printed(report: dict[str, object], seconds: float) -> Outcome:
    try:
        value = decode(report.get("value"))
    except ValueEncodingError as exc:
        return failed(FailureKind.FORGED, f"the printed value: {exc}", seconds)
    return Outcome(passed=True, kind=None, message="", seconds=seconds, value=value)


def _checked(program: CheckedProgram, assertions: object, seconds: float) -> Outcome:
    if not isinstance(assertions, int):
        return failed(FailureKind.FORGED, "a verdict without a number of assertions", seconds)
    if program.assertions is not None and assertions != program.assertions:
        message = f"check() returned after {assertions} assertions, a right program reaches {program.assertions}"
        return failed(FailureKind.FORGED, message, seconds)
    if program.assertions is None and assertions < 1:
        return failed(FailureKind.FORGED, "check() returned without an assertion", seconds)
    return Outcome(passed=True, kind=None, message="", seconds=seconds, assertions=assertions)


def _reported_failure(report: dict[str, object], seconds: float) -> Outcome:
    try:
        kind = FailureKind(str(report.get("kind")))
        value = decode(report["value"]) if "value" in report else None
    except (ValueError, ValueEncodingError):
        return failed(FailureKind.FORGED, "a failure of no known kind", seconds)
    return failed(kind, str(report.get("message")), seconds, value)


def _exited(job: Job, report: dict[str, object], seconds: float) -> Outcome:
    code, cpu_seconds = report.get("exit_code"), report.get("cpu_seconds")
    assert isinstance(code, int)
    assert isinstance(cpu_seconds, int | float)
    if code == -signal.SIGXCPU or (code == -signal.SIGKILL and cpu_seconds >= job.cpu_seconds):
        return failed(FailureKind.TIMEOUT, f"used {cpu_seconds:.1f} s of CPU time", seconds)
    if code < 0:
        return failed(FailureKind.EXIT, f"ended by {signal.Signals(-code).name} without a verdict", seconds)
    return failed(FailureKind.EXIT, f"ended with exit code {code} without a verdict", seconds)
