"""Readers beside a writer that exchanges two bundles: each load must be one of them, whole."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from codegen_edge import load_model, open_bundle
from codegen_edge.bundle import Bundle
from codegen_edge.bundle.writer import write_bundle
from tests.chaos.faults import Tally
from tests.fuzz.children import in_child

_PATIENCE_SECONDS = 120.0
_PROMPT = "def hello_world():\n    x = [1, 2]"


def swaps(first: Bundle, second: Bundle, work: Path, *, loads: int) -> Tally:
    """Load a folder whose bundle is exchanged without a pause.

    Args:
        first, second: of other weights.
        work: an empty folder.
        loads: how often it is loaded.
    """
    out, stop = work / "bundle", work / "stop"
    expected = {each.manifest.precision: _in_child_loaded(each.path) for each in (first, second)}
    tally = Tally(scenario="load beside a writer", fault="exchange")
    _copy(first, out)

    def exchange() -> str:
        count = 0
        while not stop.exists():
            _copy((second, first)[count % 2], out)
            count += 1
        return str(count)

    def read() -> str:
        found: Counter[str] = Counter()
        for _ in range(loads):
            precision, text = _loaded(out)
            found["whole" if expected[precision] == (precision, text) else "mixed"] += 1
            time.sleep(0)
        return repr(dict(found))

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(in_child, exchange, seconds=_PATIENCE_SECONDS)
        ended = in_child(read, seconds=_PATIENCE_SECONDS)
        stop.touch()
        written = writer.result()
    if ended.outcome != "done" or "mixed" in ended.words:
        tally.failures.append(f"reader: {ended.outcome}, {ended.words}")
    else:
        tally.counts["whole"] += loads
    if written.outcome == "done":
        tally.counts["exchanges"] += int(written.words)
    else:
        tally.failures.append(f"writer: {written.outcome}, {written.words}")
    return tally


def _copy(bundle: Bundle, out: Path) -> None:
    with write_bundle(out, overwrite=True) as writer:
        for name in bundle.manifest.files:
            writer.add(name, (bundle.path / name).read_bytes())
        writer.staged(bundle.manifest)


def _loaded(folder: Path) -> tuple[str, str]:
    """Precision of the manifest, and what the weights give."""
    with load_model(folder, threads=1) as model:
        completion = model.generate(_PROMPT, max_new_tokens=4, top_logprobs=0)
        return model.bundle.manifest.precision, repr((completion.token_ids, completion.logprobs))


def _in_child_loaded(folder: Path) -> tuple[str, str]:
    ended = in_child(lambda: _loaded(folder)[1], seconds=_PATIENCE_SECONDS)
    assert ended.outcome == "done", ended
    return open_bundle(folder, check="size").manifest.precision, ended.words
