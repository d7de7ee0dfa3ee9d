"""A server under mixed load with faults for a long time: python -m benchmarks.soak [--minutes 30].

Clients complete, stream, echo, sample and share prefixes; some vanish while they wait, while their prompt is read or
while they decode, some send nonsense, some read slowly. The server's memory is read every hundred requests; the slope
is that of a least-squares line through the second half.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np

import codegen_edge
from benchmarks.machine import describe_machine
from benchmarks.serve import start_server
from codegen_edge.checkpoints.corpora import load_corpus

RESULT = Path(__file__).parent / "results" / "soak.json"
CLIENTS = 12
PROGRAMS = [file.text for file in load_corpus("held-out")]
NONSENSE: list[bytes] = [b"", b"{", b"[]", b'{"prompt": -1}', b'{"prompt": "x", "temperature": 9}', b"\xff" * 2000]
GREEDY_PROMPT = "def add(a, b):\n    return"


class Soak:
    """The clients of one server.

    Args:
        url: of the server.
        seed: of what they do.
    """

    def __init__(self, url: str, seed: int) -> None:
        self.url = url
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.errors: list[str] = []
        self.num_requests = 0
        self.expected: str | None = None

    def body(self) -> dict[str, Any]:
        """A sound request."""
        pick = self.random
        text = pick.choice(PROGRAMS)
        start = 0 if pick.random() < 0.3 else pick.randrange(len(text) // 2)
        body: dict[str, Any] = {
            "prompt": text[start : start + pick.choice((20, 200, 500))],
            "max_tokens": pick.choice((1, 8, 40)),
            "temperature": pick.choice((0, 0, 0.2, 1.0)),
        }
        if pick.random() < 0.2:
            body |= {"n": 2, "temperature": 0.8}
        if pick.random() < 0.2:
            body |= {"echo": True, "logprobs": 2}
        if pick.random() < 0.3:
            body["stop"] = ["\n\n", "def "]
        return body

    async def client(self, until: float) -> None:
        """One request after another."""
        async with httpx.AsyncClient(timeout=120) as http:
            while time.monotonic() < until:
                self.num_requests += 1
                kind = self.random.choices(
                    ("complete", "stream", "vanish", "nonsense", "slow", "check"), (40, 25, 15, 8, 4, 8)
                )[0]
                self.counts[kind] += 1
                try:
                    await getattr(self, kind)(http)
                except httpx.HTTPError as exc:
                    self.errors.append(f"{kind}: {type(exc).__name__}: {exc}")

    def expect(self, answer: httpx.Response, *statuses: int) -> None:
        """Note an answer that should not be."""
        if answer.status_code not in statuses:
            self.errors.append(f"status {answer.status_code}: {answer.text[:200]}")
        self.counts[f"status {answer.status_code}"] += 1

    async def complete(self, http: httpx.AsyncClient) -> None:
        """A whole answer."""
        self.expect(await http.post(f"{self.url}/v1/completions", json=self.body()), 200, 429)

    async def stream(self, http: httpx.AsyncClient) -> None:
        """A streamed one."""
        body = self.body() | {"stream": True}
        async with http.stream("POST", f"{self.url}/v1/completions", json=body) as answer:
            lines = [line async for line in answer.aiter_lines()]
        if answer.status_code == 200 and "data: [DONE]" not in lines:
            self.errors.append("a stream without an end")

    async def vanish(self, http: httpx.AsyncClient) -> None:
        """A client that goes away."""
        body = self.body() | {"stream": self.random.random() < 0.5, "max_tokens": 300}
        asking = asyncio.create_task(http.post(f"{self.url}/v1/completions", json=body))
        await asyncio.sleep(self.random.choice((0.0, 0.02, 0.3)))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    async def nonsense(self, http: httpx.AsyncClient) -> None:
        """A request that is none."""
        self.expect(await http.post(f"{self.url}/v1/completions", content=self.random.choice(NONSENSE)), 400, 429)

    async def slow(self, http: httpx.AsyncClient) -> None:
        """A client that takes its time."""
        async with http.stream("POST", f"{self.url}/v1/completions", json=self.body() | {"stream": True}) as answer:
            async for _ in answer.aiter_lines():
                await asyncio.sleep(0.02)

    async def check(self, http: httpx.AsyncClient) -> None:
        """The same question has the same answer all the time."""
        body = {"prompt": GREEDY_PROMPT, "max_tokens": 24, "temperature": 0}
        answer = await http.post(f"{self.url}/v1/completions", json=body)
        self.expect(answer, 200, 429)
        if answer.status_code == 200:
            text = answer.json()["choices"][0]["text"]
            self.expected = self.expected or text
            if text != self.expected:
                self.errors.append("an answer has changed")


def resident_mb(pid: int) -> float:
    """Memory of a process."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return int(fields["VmRSS"].split()[0]) / 1024


async def run(soak: Soak, pid: int, minutes: float) -> list[tuple[int, float]]:
    """Requests so far and memory, every hundred requests."""
    until = time.monotonic() + 60 * minutes
    memory: list[tuple[int, float]] = []

    async def watch() -> None:
        while True:
            if not memory or soak.num_requests >= memory[-1][0] + 100:
                memory.append((soak.num_requests, resident_mb(pid)))
            await asyncio.sleep(0.2)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(soak.client(until) for _ in range(CLIENTS)))
    watching.cancel()
    return memory


@click.command()
@click.option("--minutes", default=30.0, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(minutes: float, seed: int) -> None:
    """Write benchmarks/results/soak.json."""
    with tempfile.TemporaryDirectory(prefix="codegen-edge-soak-") as folder:
        bundle = codegen_edge.export("codegen-5M-mono", Path(folder) / "bundle", verify=False).bundle
        with start_server(bundle.path, "--slots", "4", "--queue", "16", "--prefix-cache-mib", "64") as (url, process):
            soak = Soak(url, seed)
            memory = asyncio.run(run(soak, process.pid, minutes))
            ends_ready = httpx.get(f"{url}/ready").status_code == 200
            metrics = httpx.get(f"{url}/metrics").text
    later = memory[len(memory) // 2 :]
    slope = float(np.polyfit([count for count, _ in later], [each for _, each in later], 1)[0]) if len(later) > 1 else 0
    running = [line for line in metrics.splitlines() if line.startswith("codegen_edge:num_requests_running")]
    result = {
        "machine": describe_machine(),
        "minutes": minutes,
        "seed": seed,
        "requests": soak.num_requests,
        "counts": dict(sorted(soak.counts.items())),
        "errors": len(soak.errors),
        "first_errors": soak.errors[:5],
        "resident_mb": [round(each, 1) for _, each in memory][:: max(1, len(memory) // 50)],
        "mb_per_100_requests": round(100 * slope, 3),
        "ends_ready": ends_ready,
        "running_at_the_end": running,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    click.echo(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
