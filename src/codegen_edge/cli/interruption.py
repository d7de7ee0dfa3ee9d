"""Ctrl-C while a model computes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from codegen_edge.generation import CancelToken

_Result = TypeVar("_Result")


def run_interruptibly(work: Callable[[], _Result], cancel: CancelToken) -> _Result:
    """Run `work` in a thread, so that Ctrl-C is seen at once: Python handles no signal while a kernel runs.

    While it runs Ctrl-C cancels and raises nothing: an exception in the middle of a library may be lost there.
    """
    from codegen_edge.errors import CancelledError

    outcome: list[_Result | BaseException] = []
    is_done = threading.Event()

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as exc:  # noqa: BLE001 - raised again in the main thread
            outcome.append(exc)
        is_done.set()

    thread = threading.Thread(target=run, name="generate")
    previous = signal.signal(signal.SIGINT, lambda *_: cancel.cancel())
    try:
        thread.start()
        is_done.wait()
    except BaseException:  # SIGTERM's exit
        cancel.cancel()
        if thread.ident is not None:  # it was started
            is_done.wait()
        raise
    finally:
        signal.signal(signal.SIGINT, previous)
    result = outcome[0]
    if isinstance(result, CancelledError):
        raise KeyboardInterrupt from result
    if isinstance(result, BaseException):
        raise result
    return result
