"""The process that gives a program its namespaces, its time and its output, and takes them away again."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

from codegen_edge.evaluation.sandbox.frames import ChannelClosedError, receive, send
from codegen_edge.evaluation.sandbox.inside import isolation
from codegen_edge.evaluation.sandbox.inside.warden import ward
from codegen_edge.evaluation.sandbox.job import MAX_MESSAGE_BYTES, Job

_PAUSE_SECONDS = 0.002
_PIECE_BYTES = 1 << 16


def keep(control: int, *, is_nested: bool, is_contained: bool) -> bool:
    """Run the one program that the supervisor sends, and send back how it ended.

    Args:
        control: a descriptor to the supervisor.
        is_nested: whether to make namespaces; without them, descendants are looked for.
        is_contained: whether the zygote and its descendants are alone in a process namespace.

    Returns:
        Whether there was a program; if not, the supervisor has gone.
    """
    try:
        job = Job(**receive(control, MAX_MESSAGE_BYTES))  # type: ignore[arg-type]
    except ChannelClosedError:
        return False
    if is_nested:
        isolation.enter_namespaces(job.folder_bytes)
    else:
        os.setsid()
        isolation.adopt_orphans()
    send(control, {"end": "started"})
    started = time.monotonic()
    orders_end, orders = os.pipe()
    report, report_end = os.pipe()
    output, output_end = os.pipe()
    warden = os.fork()
    if warden == 0:
        try:
            for descriptor in (control, orders, report, output):
                os.close(descriptor)
            ward(job, is_nested=is_nested, orders=orders_end, report=report_end, output=output_end)
        finally:
            os._exit(0)
    for descriptor in (orders_end, report_end, output_end):
        os.close(descriptor)
    order = receive(control, MAX_MESSAGE_BYTES)  # the nonce and the tests, of which the forked processes know nothing
    with contextlib.suppress(OSError):
        send(orders, order)
    end = watch(job, started + job.wall_seconds, report=report, output=output, control=control)
    seconds = time.monotonic() - started
    os.kill(warden, signal.SIGKILL)
    os.waitpid(warden, 0)
    if not is_nested:
        end_descendants(is_contained=is_contained)
    send(control, {**end, "seconds": seconds})
    return True


def end_descendants(*, is_contained: bool) -> None:
    """Kill all that this process has started, daemons included, until nothing is left.

    Args:
        is_contained: whether this is the only other process of a namespace than its first: all may be killed at once.
    """
    while True:
        with contextlib.suppress(ProcessLookupError):
            if is_contained:
                os.kill(-1, signal.SIGKILL)
        for pid in isolation.descendants():  # those whose parent ends become this process's children
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return
        time.sleep(_PAUSE_SECONDS)


def watch(job: Job, deadline: float, *, report: int, output: int, control: int) -> dict[str, object]:
    """Wait for the warden's report, the deadline, too much output, or the supervisor's end."""
    poll = select.poll()
    poll.register(report, select.POLLIN)
    poll.register(output, select.POLLIN)
    poll.register(control, 0)  # only that it hangs up
    printed = 0
    while (left := deadline - time.monotonic()) > 0:
        ready = dict(poll.poll(left * 1000))
        if control in ready:
            return {"end": "cancelled"}
        if report in ready:
            try:
                return {"end": "reported", "report": receive(report, MAX_MESSAGE_BYTES)}
            except ChannelClosedError:
                return {"end": "died"}
        if output in ready:
            piece = os.read(output, _PIECE_BYTES)
            printed += len(piece)
            if not piece:
                poll.unregister(output)
            elif printed > job.output_bytes:
                return {"end": "output"}
    return {"end": "timeout"}
