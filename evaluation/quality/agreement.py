"""How far a bundle writes what its reference writes: the first token that differs, on code."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.quality.intervals import Interval, bootstrap_interval, shown_interval
from codegen_edge.evaluation.quality.metrics import Metric, MetricInput
from codegen_edge.evaluation.quality.scoring import document_ids
from codegen_edge.generation.loop import GenerationLoop
from codegen_edge.generation.params import GenerationParams
from codegen_edge.runtimes.runtime import Runtime

PROMPT_TOKENS = 64
NEW_TOKENS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Greedy texts of a candidate beside those of its reference.

    Attributes:
        num_documents: texts whose beginnings were continued.
        new_tokens: at most, per text.
        mean_equal_tokens: new tokens before the first one that differs, all of a text without a difference; mean.
        equal_share: share of the texts without a difference.
        equal_tokens: of each text.
        mean_equal_interval, equal_share_interval: 95% over documents; None for a single one.
    """

    num_documents: int
    new_tokens: int
    mean_equal_tokens: float
    equal_share: float
    equal_tokens: tuple[int, ...]
    mean_equal_interval: Interval | None
    equal_share_interval: Interval | None

    @property
    def summary(self) -> str:
        """In a line."""
        return (
            f"first different token after {self.mean_equal_tokens:.1f}"
            f"{shown_interval(self.mean_equal_interval, '.1f')} of {self.new_tokens}, none in {self.equal_share:.1%}"
            f"{shown_interval(self.equal_share_interval, '.1%')} of {self.num_documents} texts"
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure_agreement(given: MetricInput) -> Agreement:
    """Continue the beginning of each document with the reference, and see how long the candidate would do the same.

    The candidate reads the reference's text in one step: as long as every token is its own likeliest one, it would have
    written it.

    Args:
        given: what is compared; `max_tokens` bounds the new tokens of all documents together.

    Raises:
        InvalidInputError: there is no text.
        NumericsError: a logit is NaN or infinite.
    """
    assert given.reference is not None
    length = min(PROMPT_TOKENS + 1, given.reference.config.context_length // 2)
    prompts = [document_ids(given.tokenizer, text)[:length] for text in given.documents if text]
    if given.max_tokens is not None:
        prompts = prompts[: max(1, given.max_tokens // NEW_TOKENS)]
    if not prompts:
        raise InvalidInputError("there is no text to continue")
    counts: list[tuple[int, bool]] = []
    for done, prompt in enumerate(prompts, start=1):
        counts.append(_equal(given.candidate, given.reference, prompt, given.tokenizer.vocab_size))
        given.on_document(done)
    sums = np.array([(1.0, equal, is_whole) for equal, is_whole in counts])
    return Agreement(
        num_documents=len(prompts),
        new_tokens=NEW_TOKENS,
        mean_equal_tokens=float(sums[:, 1].mean()),
        equal_share=float(sums[:, 2].mean()),
        equal_tokens=tuple(equal for equal, _ in counts),
        mean_equal_interval=bootstrap_interval(sums, lambda t: t[..., 1] / t[..., 0]),
        equal_share_interval=bootstrap_interval(sums, lambda t: t[..., 2] / t[..., 0]),
    )


def _equal(candidate: Runtime, reference: Runtime, prompt: NDArray[np.int64], vocab_size: int) -> tuple[int, bool]:
    """New tokens before the first one that differs, and whether there is none."""
    room = reference.config.context_length - len(prompt)
    params = GenerationParams(max_new_tokens=max(1, min(NEW_TOKENS, room)))
    loop = GenerationLoop(reference, [prompt.tolist()], params, num_allowed_ids=vocab_size)
    written = [event.token_id for event in loop if event.token_id is not None]
    ids = np.array([*prompt, *written[:-1]], np.int64)[None]
    logits = candidate.step(ids, candidate.new_cache(1, ids.shape[1]), all_logits=True)[0, len(prompt) - 1 :]
    different = np.flatnonzero(logits[:, :vocab_size].argmax(axis=-1) != np.array(written))
    return (int(different[0]), False) if len(different) else (len(written), True)


METRIC = Metric(measure=measure_agreement, needs_reference=True)
