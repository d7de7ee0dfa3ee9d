"""What the tests see of the machine: which processes there are, and whether they go."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

ZYGOTE = "codegen_edge.evaluation.sandbox.inside.server"


def processes(marker: str) -> set[int]:
    """The processes whose command line has `marker`; the dead that are not yet reaped have none."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if marker in (folder / "cmdline").read_bytes().decode(errors="replace") and int(folder.name) != os.getpid():
                found.add(int(folder.name))
    return found


def none_left(marker: str, *, but: set[int] | frozenset[int] = frozenset(), seconds: float = 2.0) -> bool:
    """Whether all processes with `marker` but those of `but` go within `seconds`."""
    give_up_at = time.monotonic() + seconds
    while processes(marker) - but:
        if time.monotonic() > give_up_at:
            return False
        time.sleep(0.02)
    return True
