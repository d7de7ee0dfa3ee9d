"""The fresh process that measures one bundle once: `python -m codegen_edge.evaluation.speed.child TASK`.

TASK is a JSON object of `fresh_process.task_of`. Every event is one line of JSON on stdout, written as soon as it
happens, so that the parent's clock tells how long the process has run. Nothing heavy is imported before `started`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from codegen_edge.errors import CodegenEdgeError

if TYPE_CHECKING:
    from codegen_edge.generation.model import Model

_WARM_STEPS = 4  # decode steps before those that are timed
_PROMPT_SEED = 0
_STATUS = Path("/proc/self/status")


class Channel:
    """Where events go: the process's own stdout, which nothing else writes to from here on."""

    def __init__(self) -> None:
        self._file: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)  # what a library prints goes to stderr

    def send(self, event: str, **fields: Any) -> None:
        """Write one event."""
        self._file.write(json.dumps({"event": event, **fields}) + "\n")
        self._file.flush()


def main() -> None:
    """Measure what the first argument asks for."""
    channel = Channel()
    channel.send("started", pid=os.getpid(), heavy=sorted({"numpy", "onnxruntime", "tokenizers"} & sys.modules.keys()))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _measure(channel, json.loads(sys.argv[1]))
    except CodegenEdgeError as exc:
        channel.send("error", kind=type(exc).__name__, message=str(exc), hint=exc.hint)
        sys.exit(1)


def _end_with_parent() -> None:
    """End when the parent's end of stdin closes, however the parent ended."""
    # Not by sys.stdin: the interpreter's end would wait for its lock.
    while os.read(0, 1):
        pass
    os._exit(1)


def _measure(channel: Channel, task: dict[str, Any]) -> None:
    started_at = time.perf_counter()
    from codegen_edge.generation.model import load_model

    if task["runtime"] != "tensorrt":
        from codegen_edge.ort_session import load_onnxruntime

        load_onnxruntime()
    imported_at = time.perf_counter()
    with load_model(task["bundle"], runtime=task["runtime"], **task["options"]) as model:
        opened_at = time.perf_counter()
        prompts = _prompts(task, model.runtime.config.vocab_size)
        _generate(model, prompts, 1 + _WARM_STEPS, lambda: channel.send("first token"))
        timed = _generate(model, prompts, task["new_tokens"])
        peak_rss_bytes = peak_rss()
    limits = None
    if task["kinds"] is not None:
        from codegen_edge.evaluation.speed.kinds import ProductKind
        from codegen_edge.evaluation.speed.roofline import measure_limits

        kinds = [ProductKind(**kind) for kind in task["kinds"]]
        limits = asdict(measure_limits(kinds, task["options"].get("threads")))
    channel.send(
        "measured",
        import_s=imported_at - started_at,
        open_s=opened_at - imported_at,
        peak_rss_bytes=peak_rss_bytes,
        limits=limits,
        **timed,
    )


def _prompts(task: dict[str, Any], vocab_size: int) -> list[list[int]]:
    import numpy as np

    shape = (task["batch"], task["prompt_tokens"])
    ids: list[list[int]] = np.random.default_rng(_PROMPT_SEED).integers(0, vocab_size, shape).tolist()
    return ids


def _generate(
    model: Model, prompts: Sequence[Sequence[int]], new_tokens: int, on_first: Any = lambda: None
) -> dict[str, Any]:
    """Generate greedily, past any end of text.

    Args:
        model: opened.
        prompts: token ids, equally many in each.
        new_tokens: of each row.
        on_first: called when the first token of the first row is there.

    Returns:
        `prefill_s`, `first_token_s`, and `steps_s` of each decode step.
    """
    from codegen_edge.generation import GenerationLoop, GenerationParams

    most = model.runtime.config.context_length - len(prompts[0])
    params = GenerationParams(max_new_tokens=min(new_tokens, most), min_new_tokens=min(new_tokens, most))
    total = sum(map(len, prompts))
    read_at: list[float] = []
    started_at = time.perf_counter()

    def on_prefill(done: int, of: int) -> None:
        if done == total:
            read_at.append(time.perf_counter())

    came_at: list[float] = []  # by step, when its first row's token was there
    for event in GenerationLoop(model.runtime, prompts, params, on_prefill=on_prefill):
        if event.row == 0:
            came_at.append(time.perf_counter())
        if len(came_at) == 1 and event.row == 0:
            on_first()
    return {
        "prefill_s": read_at[0] - started_at,
        "first_token_s": came_at[0] - started_at,
        "steps_s": [after - before for before, after in pairwise(came_at)],
    }


def peak_rss() -> int:
    """The most memory that this process had at one time, mapped files included, in bytes."""
    if _STATUS.is_file():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    main()
