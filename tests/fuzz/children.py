"""Work in a forked child with limits of time and memory, and how it ended."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import resource
import select
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from codegen_edge.errors import CodegenEdgeError

Outcome = Literal["done", "error", "system error", "several lines", "traceback", "crash", "hang"]

# No child may hold the end that another one writes to: its reader would wait for both.
_FORKING = threading.Lock()
_MOST_WORDS_BYTES = 1 << 20
_MOST_TRACEBACK_CHARS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a child ended.

    Attributes:
        outcome: "done" where the work returned; "error" for one line of ours, "system error" for an OSError, which the
            command line makes one line of; anything else is a fault.
        words: what the work returned, or the error's text.
    """

    outcome: Outcome
    words: str


def in_child(work: Callable[[], str], *, seconds: float, memory_bytes: int | None = None) -> Ended:
    """Do some work in a fork of this process.

    Args:
        work: its text comes back. It may change whatever it likes: the process ends with it.
        seconds: after which it is killed.
        memory_bytes: of address space, beside what this process has already; None sets no limit.
    """
    with _FORKING, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: of forks of a process with threads
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _work_and_exit(work, writer, memory_bytes)
        os.close(writer)
    try:
        words = _read_until(reader, time.monotonic() + seconds)
        if words is None:
            os.kill(child, signal.SIGKILL)
    finally:
        os.close(reader)
    _, status = os.waitpid(child, 0)
    if words is None:
        return Ended(outcome="hang", words=f"still at work after {seconds:g} s")
    outcome, separator, text = words.decode("utf-8", "replace").partition("\0")
    if os.WIFSIGNALED(status):
        return Ended(outcome="crash", words=f"ended by {signal.Signals(os.WTERMSIG(status)).name}")
    if not separator:
        return Ended(outcome="crash", words=f"ended with status {status} and said nothing")
    known: dict[str, Outcome] = {each: each for each in ("done", "error", "system error", "several lines", "traceback")}
    return Ended(outcome=known[outcome], words=text)


def address_space_bytes() -> int:
    """What this process has of it."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _work_and_exit(work: Callable[[], str], writer: int, memory_bytes: int | None) -> NoReturn:
    """In the child: nothing of the parent's may run after the work, no handlers and no tests."""
    try:
        faulthandler.disable()  # a crash is told by the parent
        quiet = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(quiet, descriptor)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if memory_bytes is not None:
            limit = address_space_bytes() + memory_bytes
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        outcome, words = _done(work)
        content = memoryview(f"{outcome}\0{words}".encode("utf-8", "backslashreplace")[:_MOST_WORDS_BYTES])
        while content:
            content = content[os.write(writer, content) :]
    finally:
        os._exit(0)


def _done(work: Callable[[], str]) -> tuple[Outcome, str]:
    try:
        return "done", work()
    except CodegenEdgeError as exc:
        return ("several lines" if "\n" in str(exc) else "error"), f"{type(exc).__name__}: {exc}"
    except OSError as exc:
        return "system error", repr(exc)
    # Whatever it is, panics of a library in Rust among it, it is what the caller wants to know.
    except BaseException as exc:  # noqa: BLE001
        frames = traceback.extract_tb(exc.__traceback__)[-3:]
        places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
        return "traceback", f"{type(exc).__name__}: {str(exc)[:_MOST_TRACEBACK_CHARS]} at {places}"


def _read_until(reader: int, until: float) -> bytes | None:
    """All that the child says, or None where it is too late."""
    said: Any = bytearray()
    with contextlib.suppress(InterruptedError):
        while True:
            left = until - time.monotonic()
            if left <= 0 or not select.select([reader], [], [], left)[0]:
                return None
            part = os.read(reader, 1 << 16)
            if not part:
                break
            said += part
    return bytes(said)
