"""Memory over 10,000 generations and 1,000 cancellations in one process: python -m benchmarks.steady.

The checkpoint that ships, in int8. Generations are mixed: greedy and drawn, one row, two rows, two samples, streams,
drafts, exact prefixes and sessions. A cancellation comes from another thread at a random moment, or a stream is left.
Resident memory is read after every hundredth part; the slope is that of a least-squares line through the second half.
"""

from __future__ import annotations

import json
import random
import resource
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np

import codegen_edge
from benchmarks.machine import describe_machine
from codegen_edge import CancelToken, Model
from codegen_edge.checkpoints.corpora import load_corpus
from codegen_edge.errors import CancelledError

RESULT = Path(__file__).parent / "results" / "steady.json"
PROGRAMS = [file.text for file in load_corpus("held-out")]
MOST_GROWTH = 0.01  # of the memory, over the second half
READINGS = 100
_LATEST_CANCEL_S = 0.05


class Work:
    """Generations of one model, each with other prompts and settings.

    Args:
        model: generates.
        seed: of what is asked of it.
    """

    def __init__(self, model: Model, seed: int) -> None:
        self.model = model
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()

    def generate(self) -> None:
        """One generation of a random kind."""
        kinds = ("greedy", "drawn", "rows", "samples", "stream", "draft", "session", "beams")
        kind = self.random.choice(kinds)
        self.counts[kind] += 1
        getattr(self, kind)()

    def cancel(self) -> None:
        """One generation that is cancelled from another thread, or whose stream is left."""
        if self.random.random() < 0.5:
            self.counts["left"] += 1
            for _ in islice(self.model.stream(self.prompt(), max_new_tokens=32), self.random.randrange(4)):
                pass
            return
        self.counts["cancelled"] += 1
        token = CancelToken()
        timer = threading.Timer(self.random.random() * _LATEST_CANCEL_S, token.cancel)
        timer.start()
        try:
            self.model.generate(self.prompt(), max_new_tokens=64, cancel=token)
        except CancelledError:
            self.counts["cancelled in time"] += 1
        timer.join()

    def prompt(self) -> str:
        """A piece of a program."""
        text = self.random.choice(PROGRAMS)
        start = self.random.randrange(max(1, len(text) - 200))
        return text[start : start + self.random.choice((20, 60, 200))]

    def greedy(self) -> None:
        """One row."""
        self.model.generate(self.prompt(), max_new_tokens=8)

    def drawn(self) -> None:
        """One row, drawn, with log probabilities."""
        self.model.generate(self.prompt(), max_new_tokens=8, temperature=0.8, top_logprobs=2)

    def rows(self) -> None:
        """Two prompts of other lengths."""
        self.model.generate([self.prompt(), self.prompt()], max_new_tokens=6, stop=("\n\n",))

    def samples(self) -> None:
        """Two samples of one prompt."""
        self.model.generate(self.prompt(), max_new_tokens=6, n=2, temperature=0.6)

    def stream(self) -> None:
        """Piece by piece."""
        for _ in self.model.stream(self.prompt(), max_new_tokens=6):
            pass

    def draft(self) -> None:
        """With drafts of the prompt."""
        self.model.generate(self.prompt(), max_new_tokens=8, draft="prompt-lookup")

    def session(self) -> None:
        """Two turns of one text."""
        session = self.model.session()
        for _ in range(2):
            session.append(self.prompt())
            session.generate(max_new_tokens=3)

    def beams(self) -> None:
        """Two beams."""
        self.model.generate(self.prompt(), max_new_tokens=4, num_beams=2)


def resident_bytes() -> int:
    """Of this process, now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def readings(work: Callable[[], None], count: int) -> list[int]:
    """Resident memory after every hundredth part of `count` calls."""
    found = []
    for number in range(1, count + 1):
        work()
        if number % max(1, count // READINGS) == 0:
            found.append(resident_bytes())
    return found


def growth_of(found: list[int]) -> float:
    """By which share of its median the memory grew over the second half, by a least-squares line."""
    half = np.array(found[len(found) // 2 :], np.float64)
    slope = np.polyfit(np.arange(len(half)), half, 1)[0]
    return float(slope * len(half) / np.median(half))


@click.command()
@click.option("--generations", default=10_000, show_default=True)
@click.option("--cancellations", default=1_000, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(generations: int, cancellations: int, seed: int) -> None:
    """Measure, write benchmarks/results/steady.json; exit code 1 where the memory grew by more than a hundredth."""
    result: dict[str, Any] = {"machine": describe_machine(), "scheme": "int8", "most_growth": MOST_GROWTH}
    with tempfile.TemporaryDirectory() as folder:
        whole, small = Path(folder) / "fp32", Path(folder) / "int8"
        codegen_edge.export("codegen-5M-mono", whole, verify=False)
        codegen_edge.quantize(whole, small, scheme="int8", measure_tokens=0)
        with codegen_edge.load_model(small) as model:
            work = Work(model, seed)
            for name, call, count in (
                ("generations", work.generate, generations),
                ("cancellations", work.cancel, cancellations),
            ):
                started = time.perf_counter()
                found = readings(call, count)
                result[name] = {
                    "count": count,
                    "seconds": round(time.perf_counter() - started),
                    "growth": growth_of(found),
                    "resident_bytes": found,
                }
                click.echo(f"{count} {name}: {found[-1] / 1e6:.0f} MB, grew by {result[name]['growth']:+.2%}")
            result["counts"] = dict(work.counts)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    if max(result[name]["growth"] for name in ("generations", "cancellations")) > MOST_GROWTH:
        raise click.ClickException("the memory grew")


if __name__ == "__main__":
    main()
