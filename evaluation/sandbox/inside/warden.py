"""The process above a program: it holds the tests and the nonce, hears the verdict, and takes all down with it."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import marshal
import os
import socket

from codegen_edge.evaluation.sandbox.frames import ChannelClosedError, FrameError, receive, send
from codegen_edge.evaluation.sandbox.inside import isolation
from codegen_edge.evaluation.sandbox.inside.assertions import TestsError, compile_tests, run_check
from codegen_edge.evaluation.sandbox.inside.candidate import run_candidate
from codegen_edge.evaluation.sandbox.inside.failures import described, failed, failure
from codegen_edge.evaluation.sandbox.inside.remote import RemoteProgram
from codegen_edge.evaluation.sandbox.inside.restrictions import restrict
from codegen_edge.evaluation.sandbox.job import MAX_MESSAGE_BYTES, Job


def ward(job: Job, *, is_nested: bool, orders: int, report: int, output: int) -> None:
    """Run the job's program and report how it ended. Called in a fresh process, which then must end.

    Args:
        job: the program and its limits.
        is_nested: whether this is process 1 of a namespace.
        orders: a descriptor from which the tests and the nonce are read, once the program's process exists.
        report: a descriptor to the keeper.
        output: for the program's output.
    """
    try:
        if is_nested:
            isolation.mount_own_processes()
        isolation.give_up_privileges(job.uid)
        said = _run(job, orders, output)
    except OSError as exc:
        said = failed("sandbox", described(exc))
    except TestsError as exc:
        said = failed("sandbox", str(exc))
    except FrameError as exc:
        said = failed("forged", str(exc))
    send(report, said)


def _run(job: Job, orders: int, output: int) -> dict[str, object]:
    ours, theirs = socket.socketpair()
    program = os.fork()
    if program == 0:
        try:
            run_candidate(job, theirs.fileno(), output)
        finally:
            os._exit(0)
    theirs.close()
    os.close(output)
    order = receive(orders, MAX_MESSAGE_BYTES)
    try:
        return hear(job, ours.fileno(), str(order["tests"]), str(order["nonce"]))
    except ChannelClosedError:
        return _ended(program)


def hear(job: Job, channel: int, tests: str, nonce: str) -> dict[str, object]:
    """Give the program's process its tests and hear its report; in strict mode, run the tests here.

    Raises:
        ChannelClosedError: it ended without a report.
        FrameError: it sent what no program sends.
        TestsError: the tests are at fault.
    """
    if job.entry_point is not None and job.is_strict:
        return _check(job, job.entry_point, channel, tests, nonce)
    if job.entry_point is not None:
        code = base64.b64encode(marshal.dumps(compile_tests(tests))).decode()
        _tell(channel, {"tests": code})
    said = receive(channel, MAX_MESSAGE_BYTES)
    if said.get("end") == "returned":
        _tell(channel, {"nonce": nonce})
        said = receive(channel, MAX_MESSAGE_BYTES)
    return _of_program(said)


def _tell(channel: int, message: dict[str, object]) -> None:
    with contextlib.suppress(OSError):  # it has ended, and what it said before can still be read
        send(channel, message)


def _of_program(said: dict[str, object]) -> dict[str, object]:
    """What the program's process said, unless only the warden may say it."""
    is_failure = said.get("end") == "failed" and said.get("kind") != "sandbox"
    return said if is_failure or said.get("end") == "verdict" else failed("forged", "the program's process lied")


def _check(job: Job, entry_point: str, channel: int, tests: str, nonce: str) -> dict[str, object]:
    said = receive(channel, MAX_MESSAGE_BYTES)
    if said.get("end") != "ready":
        return failed("forged", "the program's process lied") if said.get("end") == "verdict" else _of_program(said)
    restrict(dataclasses.replace(job, cpu_seconds=job.wall_seconds))  # the clock ends this process before
    code = compile_tests(tests)
    program = RemoteProgram(channel)
    if not program.defines(entry_point):
        return failed("name", f"NameError: name '{entry_point}' is not defined")
    try:
        held = run_check(code, program.namespace(code, job.program), program.function(entry_point))
        program.defines(entry_point)  # tests that want an exception must not take its end for one
    except (FrameError, TestsError):
        raise
    except BaseException as exc:  # noqa: BLE001 - tests may raise anything
        return failure(exc)
    return {"end": "verdict", "nonce": nonce, "assertions": held}


def _ended(program: int) -> dict[str, object]:
    """Wait for the program's process, which has closed its channel: the keeper's clock runs on."""
    _, status, usage = os.wait4(program, 0)
    return {
        "end": "exited",
        "exit_code": os.waitstatus_to_exitcode(status),
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
    }
