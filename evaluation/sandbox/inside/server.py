"""The zygote: a Python with its modules loaded, which forks a keeper for every program and itself reads nothing of it.

What it never reads it cannot hand on: no program finds another's text, tests or nonce in the memory it was forked with.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import site

from codegen_edge.evaluation.sandbox.frames import send
from codegen_edge.evaluation.sandbox.inside import isolation
from codegen_edge.evaluation.sandbox.inside.failures import described
from codegen_edge.evaluation.sandbox.inside.keeper import end_descendants, keep

_KEPT = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def serve(control: int, *, is_nested: bool, preload: list[str]) -> None:
    """Run the programs that come over `control`, one after another, until it is closed.

    Args:
        control: a descriptor to the supervisor.
        is_nested: whether each program gets namespaces of its own.
        preload: modules to import beforehand.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides what an interruption means
    site.setquit()
    try:
        for name in preload:
            importlib.import_module(name)
    except ImportError as exc:
        send(control, {"end": "unready", "message": described(exc)})
        return
    for name in [name for name in os.environ if name not in _KEPT]:
        del os.environ[name]
    if not is_nested:
        isolation.adopt_orphans()
    gc.collect()
    gc.freeze()
    send(control, {"end": "ready"})
    while _serve_one(control, is_nested=is_nested):
        pass


def _serve_one(control: int, *, is_nested: bool) -> bool:
    is_contained = os.getpid() == 1
    select.select([control], [], [])
    keeper = os.fork()
    if keeper == 0:
        has_run = False
        try:
            has_run = keep(control, is_nested=is_nested, is_contained=is_contained)
        except BaseException as exc:  # noqa: BLE001 - the supervisor is to hear of it
            send(control, {"end": "broken", "message": described(exc)})
        finally:
            os._exit(0 if has_run else 1)
    _, status = os.waitpid(keeper, 0)
    if not is_nested:
        end_descendants(is_contained=is_contained)
    return status == 0
