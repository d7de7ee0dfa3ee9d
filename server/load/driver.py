"""Requests in a closed loop, by clients that wait for each answer, or in an open loop, at times fixed beforehand.

Clients of a closed loop slow down with the server, so a stall delays few requests and percentiles look good
("coordinated omission", G. Tene, "How NOT to Measure Latency"). An open loop sends on schedule whatever the server
does, and counts every latency from the moment at which the request was meant to be sent.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from codegen_edge.errors import InvalidInputError
from codegen_edge.server.load.client import CompletionClient, failure_error
from codegen_edge.server.load.results import LoadResult, Sample, summarize

OnDone = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedLoop:
    """Clients that each send their next request when the last one has ended.

    Attributes:
        concurrency: number of clients.
    """

    concurrency: int = 1

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise InvalidInputError(f"concurrency must be at least 1, got {self.concurrency}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLoop:
    """Requests at times that do not depend on the answers.

    Attributes:
        rate: requests per second.
        is_poisson: random gaps, as of many users who know nothing of each other, instead of equal ones.
        seed: of the random gaps.
    """

    rate: float
    is_poisson: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise InvalidInputError(f"rate must be positive and finite, got {self.rate}")
        if self.seed < 0:
            raise InvalidInputError(f"seed must not be negative, got {self.seed}")

    def schedule_s(self, num_requests: int) -> list[float]:
        """When to send each request, in seconds after the first one."""
        if not self.is_poisson:
            return [index / self.rate for index in range(num_requests)]
        gaps = np.random.default_rng(self.seed).exponential(1 / self.rate, size=num_requests - 1)
        return [0.0, *np.cumsum(gaps).tolist()]


Load = ClosedLoop | OpenLoop


async def warm_up(client: CompletionClient, bodies: Sequence[bytes]) -> None:
    """Send requests one after the other, and measure nothing.

    Raises:
        InvalidInputError: no server answers, or it refuses a request.
        BackendError: it fails.
    """
    for body in bodies:
        reply = await client.complete(body)
        if reply.failure is not None:
            raise failure_error(client.endpoint, reply.failure)


async def drive(
    client: CompletionClient, bodies: Sequence[bytes], load: Load, on_done: OnDone = lambda done, total: None
) -> LoadResult:
    """Send every request and measure.

    Args:
        client: of the server.
        bodies: of the requests, in the order of sending; at least one.
        load: when to send them.
        on_done: called with the number of requests that have ended, and of all.

    Returns:
        Latencies, throughput and errors. A request that fails is counted and raises nothing.
    """
    if not bodies:
        raise InvalidInputError("bodies must hold at least one request, got none")
    samples: list[Sample] = []

    async def send(body: bytes, intended_s: float) -> None:
        reply = await client.complete(body)
        samples.append(Sample(intended_s=intended_s, reply=reply))
        on_done(len(samples), len(bodies))

    if isinstance(load, ClosedLoop):
        waiting = iter(bodies)

        async def send_in_turn() -> None:
            for body in waiting:
                await send(body, time.perf_counter())

        async with asyncio.TaskGroup() as clients:
            for _ in range(min(load.concurrency, len(bodies))):
                clients.create_task(send_in_turn())
    else:
        start_s = time.perf_counter()
        async with asyncio.TaskGroup() as requests:
            for body, offset_s in zip(bodies, load.schedule_s(len(bodies)), strict=True):
                intended_s = start_s + offset_s
                await asyncio.sleep(max(intended_s - time.perf_counter(), 0.0))
                requests.create_task(send(body, intended_s))
    return summarize(samples)
