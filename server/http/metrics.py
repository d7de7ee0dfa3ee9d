"""Prometheus metrics, under the names that vLLM gave them (vllm/v1/metrics)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, core
from prometheus_client.registry import Collector

from codegen_edge.server.engine import EngineState, Event, Failed, Piece, Scored, Started, Ticket
from codegen_edge.server.http.models import ServedModel

_Read = Callable[[EngineState], float]

_LABEL = "model_name"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560)
_STEP_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 5, 10)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)


@dataclass(slots=True)
class _Progress:
    """A request whose events are coming: choices that have not ended, and when its last token came."""

    num_open: int
    last_at: float | None = None


class Metrics:
    """What the server counts.

    Args:
        prefix: of the names; "vllm" for dashboards made for it.
    """

    def __init__(self, prefix: str) -> None:
        self.registry = CollectorRegistry()
        self._progress: dict[Ticket, _Progress] = {}

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"{prefix}:{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(f"{prefix}:{name}", text, (_LABEL,), registry=self.registry, buckets=buckets)

        self._prompt_tokens = counter("prompt_tokens", "Prompt tokens of requests that got a slot.", _LABEL)
        self._generation_tokens = counter("generation_tokens", "Generated tokens.", _LABEL)
        self._success = counter("request_success", "Choices that ended.", _LABEL, "finished_reason")
        self._failures = counter("request_failures", "Requests and choices that ended with an error.", _LABEL)
        self._rejections = counter("admission_rejections", "Requests that were not taken.", "reason")
        self._disconnects = counter("http_requests_client_disconnected", "Clients that went away too early.")
        self._request_prompt = histogram("request_prompt_tokens", "Prompt tokens per request.", _TOKENS)
        self._request_generated = histogram("request_generation_tokens", "Generated tokens per request.", _TOKENS)
        self._first_token = histogram("time_to_first_token_seconds", "From arrival to the first token.", _SECONDS)
        self._between = histogram("inter_token_latency_seconds", "Between two tokens of a request.", _STEP_SECONDS)
        self._queue = histogram("request_queue_time_seconds", "From arrival to a slot.", _SECONDS)
        self._prefill = histogram("request_prefill_time_seconds", "From the slot to the first token.", _SECONDS)
        self._decode = histogram("request_decode_time_seconds", "From the first token to the last.", _SECONDS)
        self._end_to_end = histogram("e2e_request_latency_seconds", "From arrival to the last token.", _SECONDS)
        self._prefix = prefix

    def watch(self, models: Sequence[ServedModel]) -> None:
        """Read these models' engines when the metrics are asked for, and show their families at zero."""
        self.registry.register(_EngineCollector(self._prefix, models))
        for served in models:
            for metric in (self._prompt_tokens, self._generation_tokens, self._failures):
                metric.labels(served.name)
            for reason in ("stop", "length", "cancelled"):
                self._success.labels(served.name, reason)
            for timed in (
                *(self._first_token, self._between, self._queue, self._prefill, self._decode, self._end_to_end),
                *(self._request_prompt, self._request_generated),
            ):
                timed.labels(served.name)

    def count_rejection(self, reason: str) -> None:
        """A request was not taken."""
        self._rejections.labels(reason).inc()

    def count_disconnect(self) -> None:
        """A client went away."""
        self._disconnects.inc()

    def observe(self, name: str, ticket: Ticket, event: Event) -> None:
        """An event of a model's engine."""
        match event:
            case Started():
                assert ticket.started_at is not None
                self._queue.labels(name).observe(ticket.started_at - ticket.queued_at)
                self._prompt_tokens.labels(name).inc(ticket.job.num_prompt_tokens)
                self._request_prompt.labels(name).observe(ticket.job.num_prompt_tokens)
            case Failed():
                self._failures.labels(name).inc()
            case Piece():
                if event.event.token_id is not None:
                    self._token(
                        name, ticket, ticket.queued_at if ticket.started_at is None else ticket.started_at, event
                    )
                if event.event.finish_reason is not None:
                    self._success.labels(name, event.event.finish_reason).inc()
            case _:
                pass
        self._count_ended(name, ticket, event)

    def _count_ended(self, name: str, ticket: Ticket, event: Event) -> None:
        """Observe a request once, when the last event of its last choice has come.

        The ticket itself may be finished earlier: the engine is ahead of the events that it has delivered.
        """
        progress = self._progress.setdefault(ticket, _Progress(ticket.job.num_choices))
        match event:
            case Piece() if event.event.finish_reason is not None:
                progress.num_open -= 1
            case Failed(choice=None):
                progress.num_open = 0
            case Failed():
                progress.num_open -= 1
            case Scored() if ticket.job.is_score_only:
                progress.num_open -= ticket.job.params.n
            case _:
                pass
        if progress.num_open > 0:
            return
        del self._progress[ticket]
        if progress.last_at is not None and ticket.finished_at is not None and ticket.first_token_at is not None:
            self._request_generated.labels(name).observe(ticket.num_generated)
            self._end_to_end.labels(name).observe(ticket.finished_at - ticket.queued_at)
            self._decode.labels(name).observe(ticket.finished_at - ticket.first_token_at)

    def _token(self, name: str, ticket: Ticket, started_at: float, piece: Piece) -> None:
        self._generation_tokens.labels(name).inc()
        at = started_at + piece.event.seconds
        progress = self._progress.setdefault(ticket, _Progress(ticket.job.num_choices))
        if progress.last_at is None:
            self._first_token.labels(name).observe(max(0.0, at - ticket.queued_at))
            self._prefill.labels(name).observe(max(0.0, at - started_at))
        elif ticket.job.num_choices == 1:
            self._between.labels(name).observe(max(0.0, at - progress.last_at))
        progress.last_at = at


class _EngineCollector(Collector):
    """What the engines are doing now."""

    def __init__(self, prefix: str, models: Sequence[ServedModel]) -> None:
        self._prefix = prefix
        self._models = models

    def collect(self) -> Iterator[Metric]:
        families: Any = core  # its constructors have no types
        states = [(served.name, served.engine.snapshot()) for served in self._models]
        gauges: dict[str, tuple[str, _Read]] = {
            "num_requests_running": ("Requests that have slots.", lambda state: state.running),
            "num_requests_waiting": ("Requests in the queue.", lambda state: state.waiting),
            "kv_cache_usage_perc": (
                "Share of the slots that are taken.",
                lambda state: 1 - state.free_slots / state.slots,
            ),
            "prefix_cache_bytes": ("Keys and values of prompts that are kept.", lambda state: state.prefix_bytes),
        }
        counters: dict[str, tuple[str, _Read]] = {
            "prefix_cache_queries": ("Prompt tokens that were looked up.", lambda state: state.prefix_queried),
            "prefix_cache_hits": ("Those that were found.", lambda state: state.prefix_hits),
            "spec_decode_num_draft_tokens": ("Drafted tokens that were fed.", lambda state: state.drafted),
            "spec_decode_num_accepted_tokens": ("Those that were accepted.", lambda state: state.accepted),
        }
        for name, (text, read) in gauges.items():
            gauge = families.GaugeMetricFamily(f"{self._prefix}:{name}", text, labels=[_LABEL])
            for model, state in states:
                gauge.add_metric([model], read(state))
            yield gauge
        for name, (text, read) in counters.items():
            counted = families.CounterMetricFamily(f"{self._prefix}:{name}", text, labels=[_LABEL])
            for model, state in states:
                counted.add_metric([model], read(state))
            yield counted
