"""What a run of requests adds up to: latencies as percentiles, throughput, and errors by kind."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from codegen_edge.server.load.client import Reply

TokenSource = Literal["usage", "chunks", "usage and chunks", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One request of a run.

    Attributes:
        intended_s: when it was meant to be sent, by `time.perf_counter`. Latencies count from here.
        reply: what came of it.
    """

    intended_s: float
    reply: Reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """Durations in milliseconds.

    Percentiles are by nearest rank: p90 is the smallest of the values that at least 90% of them do not exceed. So each
    is a value that was measured, and p99 of fewer than 100 values is the largest one.
    """

    count: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float

    @classmethod
    def of(cls, durations_s: Iterable[float]) -> Distribution | None:
        """Of durations in seconds; None where there are none."""
        values = sorted(1e3 * duration for duration in durations_s)
        if not values:
            return None
        return cls(
            count=len(values),
            mean_ms=math.fsum(values) / len(values),
            p50_ms=nearest_rank(values, 50),
            p90_ms=nearest_rank(values, 90),
            p95_ms=nearest_rank(values, 95),
            p99_ms=nearest_rank(values, 99),
            max_ms=values[-1],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """A run. Latencies and tokens are those of completed requests; the others are counted in `errors`.

    Attributes:
        requests: that were sent.
        completed: whose answer is whole.
        duration_s: from the first intended send to the last end.
        requests_per_second: completed ones.
        output_tokens: of the completed requests.
        token_source: who counted them: the server (usage) or the driver (chunks that hold text).
        peak_concurrency: most requests that were under way at a time.
        retries: how often a request was sent again because the server asked for that.
        errors: number of failed requests by kind; see `Failure`.
        error_messages: the first message of each kind.
        time_to_first_token: from the intended send to the first chunk that holds text.
        inter_token_latency: between chunks that hold text, over all requests.
        time_per_output_token: of each request, from its first text to its last, by its number of tokens less one. It
            does not depend on how many tokens a chunk holds.
        end_to_end_latency: from the intended send to the end of the answer.
        connect: opening the connection, which the latencies hold as well.
        send_delay: from the intended send to the real one, of all requests. Long ones mean that the driver's own
            machine was too slow for the schedule.
    """

    requests: int
    completed: int
    duration_s: float
    requests_per_second: float
    output_tokens: int
    output_tokens_per_second: float
    token_source: TokenSource
    peak_concurrency: int
    retries: int
    errors: dict[str, int]
    error_messages: dict[str, str]
    time_to_first_token: Distribution | None
    inter_token_latency: Distribution | None
    time_per_output_token: Distribution | None
    end_to_end_latency: Distribution | None
    connect: Distribution | None
    send_delay: Distribution | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def summarize(samples: Sequence[Sample]) -> LoadResult:
    """Add up a run of at least one request."""
    whole = [sample for sample in samples if sample.reply.failure is None]
    failures = [sample.reply.failure for sample in samples if sample.reply.failure is not None]
    spoken = [sample for sample in whole if sample.reply.text_s]
    start_s = min(sample.intended_s for sample in samples)
    duration_s = max(sample.reply.ended_s for sample in samples) - start_s
    output_tokens = sum(sample.reply.num_tokens for sample in whole)
    return LoadResult(
        requests=len(samples),
        completed=len(whole),
        duration_s=duration_s,
        requests_per_second=len(whole) / duration_s,
        output_tokens=output_tokens,
        output_tokens_per_second=output_tokens / duration_s,
        token_source=_token_source(whole),
        peak_concurrency=_peak_concurrency(samples),
        retries=sum(sample.reply.retries for sample in samples),
        errors=dict(Counter(failure.kind for failure in failures).most_common()),
        error_messages={failure.kind: failure.message for failure in reversed(failures)},
        time_to_first_token=Distribution.of(sample.reply.text_s[0] - sample.intended_s for sample in spoken),
        inter_token_latency=Distribution.of(
            later - earlier
            for sample in spoken
            for earlier, later in zip(sample.reply.text_s, sample.reply.text_s[1:], strict=False)
        ),
        time_per_output_token=Distribution.of(
            (sample.reply.text_s[-1] - sample.reply.text_s[0]) / (sample.reply.num_tokens - 1)
            for sample in spoken
            if sample.reply.num_tokens > 1
        ),
        end_to_end_latency=Distribution.of(sample.reply.ended_s - sample.intended_s for sample in whole),
        connect=Distribution.of(sample.reply.connect_s for sample in samples if sample.reply.connect_s is not None),
        send_delay=Distribution.of(sample.reply.sent_s - sample.intended_s for sample in samples),
    )


def nearest_rank(values: Sequence[float], percent: int) -> float:
    """The percentile of ascending values by nearest rank."""
    return values[max(math.ceil(percent * len(values) / 100), 1) - 1]


def _token_source(whole: Sequence[Sample]) -> TokenSource:
    sources = {sample.reply.usage_tokens is not None for sample in whole}
    if not sources:
        return "none"
    if len(sources) == 2:
        return "usage and chunks"
    return "usage" if True in sources else "chunks"


def _peak_concurrency(samples: Sequence[Sample]) -> int:
    """Most requests under way at a time; one that ends when another begins does not overlap it."""
    changes = [(sample.reply.sent_s, 1) for sample in samples] + [(sample.reply.ended_s, -1) for sample in samples]
    running = peak = 0
    for _, change in sorted(changes):
        running += change
        peak = max(peak, running)
    return peak
