"""What every worker speaks: one JSON object per line, requests on stdin, events on stdout, in turn.

    {"do": "open", "model": PATH, "precision": NAME, "threads": N}
        -> {"event": "opened", "open_s": SECONDS, "versions": {PACKAGE: VERSION}}
    {"do": "generate", "prompts": [[ID, ...], ...], "new_tokens": N}
        -> {"event": "generated", "token_ids": [[ID, ...], ...], "first_token_s": SECONDS, "steps_s": [SECONDS, ...],
            "peak_rss_bytes": BYTES}
    whatever fails
        -> {"event": "error", "message": TEXT}

The first line, {"event": "started"}, is written before anything heavy is imported. The end of stdin ends the process.
Only the standard library is imported here, since the file runs in every peer's environment.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

TokenIds = list[list[int]]

_STATUS = Path("/proc/self/status")
_MOST_MESSAGE = 500  # characters


@dataclass(slots=True)
class Clock:
    """When each token of the first row came; `tick` is called for each of them."""

    started_at: float = field(default_factory=time.perf_counter)
    ticks: list[float] = field(default_factory=list)

    def tick(self) -> None:
        """The next token of the first row is known to the program that called."""
        self.ticks.append(time.perf_counter())

    def to_dict(self) -> dict[str, Any]:
        """Time to the first token, and of each step after it."""
        return {
            "first_token_s": self.ticks[0] - self.started_at,
            "steps_s": [after - before for before, after in pairwise(self.ticks)],
        }


# Generates `new_tokens` for each prompt greedily, all prompts equally long, past any end of text.
Generate = Callable[[TokenIds, int, Clock], TokenIds]
# Opens what a request names.
Open = Callable[[dict[str, Any]], Generate]


def serve(open_model: Open, packages: Sequence[str] = ()) -> None:
    """Answer requests until stdin ends.

    Args:
        open_model: imports the peer and opens the model.
        packages: whose versions are reported.
    """
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints goes to stderr

    def send(event: str, **fields: Any) -> None:
        channel.write(json.dumps({"event": event, **fields}) + "\n")
        channel.flush()

    send("started")
    generate: Generate | None = None
    for request in _requests():
        try:
            if request["do"] == "open":
                started_at = time.perf_counter()
                generate = open_model(request)
                send("opened", open_s=time.perf_counter() - started_at, versions=_versions(packages))
            else:
                assert generate is not None, "open comes first"
                clock = Clock()
                token_ids = generate(request["prompts"], request["new_tokens"], clock)
                send("generated", token_ids=token_ids, peak_rss_bytes=peak_rss(), **clock.to_dict())
        except Exception as exc:  # noqa: BLE001 - whatever a peer raises is its row of the result
            send("error", message=f"{type(exc).__name__}: {exc}"[:_MOST_MESSAGE])


def peak_rss() -> int:
    """The most memory that this process had at one time, mapped files included, in bytes; 0 where nothing says."""
    if not _STATUS.is_file():
        return 0
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def _requests() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
