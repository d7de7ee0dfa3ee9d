"""Metrics of a bundle on texts. What is registered here is in `evaluate`, on the command line and in the tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from codegen_edge.registry import Registry
from codegen_edge.runtimes.runtime import Runtime
from codegen_edge.tokenizer import Tokenizer


class MetricResult(Protocol):
    """What a metric gives."""

    @property
    def summary(self) -> str:
        """In a line."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricInput:
    """What a metric measures.

    Attributes:
        candidate: the bundle's runtime.
        reference: what it is compared with; None for a metric that needs none.
        tokenizer: of both.
        documents: texts, each read by itself.
        max_tokens: about how many tokens to predict, spread over all documents; None predicts all of them.
        on_document: called with the number of documents that are done.
    """

    candidate: Runtime
    reference: Runtime | None
    tokenizer: Tokenizer
    documents: Sequence[str]
    max_tokens: int | None = None
    on_document: Callable[[int], None] = field(default=lambda _: None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """What a metric's module offers.

    Attributes:
        measure: gives the result.
        needs_reference: whether it compares with another bundle.
    """

    measure: Callable[[MetricInput], MetricResult]
    needs_reference: bool = False


METRICS: Registry[Metric] = Registry(
    "metric",
    {
        "perplexity": "codegen_edge.evaluation.quality.perplexity:METRIC",
        "damage": "codegen_edge.evaluation.quality.damage:METRIC",
        "agreement": "codegen_edge.evaluation.quality.agreement:METRIC",
    },
)
