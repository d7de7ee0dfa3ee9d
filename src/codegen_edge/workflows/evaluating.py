"""How good is a bundle? One call for every registered metric."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from codegen_edge.bundle import Bundle, open_bundle
from codegen_edge.checkpoints.corpora import load_corpus
from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.quality.metrics import METRICS, MetricInput, MetricResult
from codegen_edge.runtimes import Runtime, open_runtime
from codegen_edge.tokenizer import Tokenizer
from codegen_edge.workflows.progress import OnStage, silent


def evaluate(
    bundle: str | Path | Bundle,
    *,
    metrics: Sequence[str] = ("perplexity",),
    reference: str | Path | Bundle | None = None,
    texts: Sequence[str] = (),
    max_tokens: int | None = None,
    runtime: str = "cpu",
    threads: int | None = None,
    exact_steps: bool = False,
    on_stage: OnStage = silent,
) -> dict[str, MetricResult]:
    """Measure a bundle on texts, through the KV cache that generation uses.

    Args:
        bundle: text-generation; its folder, or opened.
        metrics: names of registered metrics: "perplexity"; "damage" against `reference`.
        reference: the bundle to compare with, for the metrics that need one.
        texts: what is predicted, each by itself; empty takes the held-out programs that ship.
        max_tokens: about how many tokens to predict, spread over all texts; None predicts all of them.
        runtime: which runs both bundles.
        threads: CPU threads of a CPU runtime; None takes all that this process may use.
        exact_steps: whether the cpu runtime steps exactly.
        on_stage: called with the progress.

    Returns:
        The result of each metric by its name.

    Raises:
        InvalidInputError: no metric, or none of a name; one that needs a reference, without one; no text.
        BundleError: a bundle cannot be opened, or is of another kind.
        RuntimeUnavailableError: the runtime cannot be had here.
        NumericsError: a logit is NaN or infinite.
    """
    if not metrics:
        raise InvalidInputError(f"name at least one metric; there are: {', '.join(METRICS)}")
    chosen = {name: METRICS.find(name) for name in metrics}
    needing = [name for name, metric in chosen.items() if metric.needs_reference]
    if needing and reference is None:
        raise InvalidInputError(
            f"{needing[0]} compares with another bundle: give a reference", hint="--reference BUNDLE"
        )
    documents = list(texts) or [file.text for file in load_corpus("held-out")]
    given = [bundle] if reference is None else [bundle, reference]
    opened = [each if isinstance(each, Bundle) else open_bundle(each) for each in given]
    runtimes: list[Runtime] = []
    try:
        runtimes += (open_runtime(runtime, each, threads=threads, exact_steps=exact_steps or None) for each in opened)
        results = {}
        for name, metric in chosen.items():
            results[name] = metric.measure(
                MetricInput(
                    candidate=runtimes[0],
                    reference=runtimes[1] if metric.needs_reference else None,
                    tokenizer=Tokenizer(opened[0].tokenizer_path),
                    documents=documents,
                    max_tokens=max_tokens,
                    on_document=lambda done, name=name: on_stage(name, done, len(documents)),  # type: ignore[misc]
                )
            )
        return results
    finally:
        for running in runtimes:
            running.close()
