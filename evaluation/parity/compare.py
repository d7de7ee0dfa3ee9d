"""Is a runtime equal to the reference? Every logit of every step, in every way that a sequence can be fed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.parity.tolerances import Tolerance
from codegen_edge.runtimes import Runtime

DEFAULT_STEPS = 16
"""Cached decode steps that `verify` compares after each prompt, by default."""

DEFAULT_PROMPTS = (
    "def hello_world():",
    "# Reverse a string\ndef reverse(text):\n    return",
    "import os\nimport sys\n\n\ndef main() -> int:\n    for path in sys.argv[1:]:\n        print(",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n",
    "x = [i ** 2 for i in range(10)]\nassert x ==",
    "\t\tif (a != b) {\n\t\t\treturn -1;\n\t\t}\n",
    'name = "Grüße, 世界 🌍"\nprint(',
    "a",
)
"""Prompts of different lengths: code, runs of spaces and tabs, characters of several bytes, a single token."""

_CHUNK = 5  # tokens of a chunk of prefill: a size that divides few prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What one way of feeding the prompts showed.

    Attributes:
        scenario: how the tokens were fed.
        positions: number of compared positions, each with V logits.
        max_abs_error, mean_abs_error: of the logits.
        limit: the largest error that the tolerance allows here.
        top1_agreement: share of positions whose likeliest token is the reference's.
        near_ties: positions that disagree where the reference's own margin is within the limit.
        wrong_tokens: positions that disagree anywhere else; one is a failure.
        max_kl: largest Kullback-Leibler divergence from the reference's distribution, in nats.
        worst: prompt and position of the largest error.
        first_failure: the first position that breaks the tolerance, None when there is none.
    """

    scenario: str
    positions: int
    max_abs_error: float
    mean_abs_error: float
    limit: float
    top1_agreement: float
    near_ties: int
    wrong_tokens: int
    max_kl: float
    worst: str
    first_failure: str | None

    @property
    def is_equal(self) -> bool:
        """Whether every position is within the tolerance."""
        return self.first_failure is None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """The verdict of a verification and what it rests on.

    Attributes:
        runtime: name of the runtime that was compared.
        num_prompts: prompts that were compared, in every scenario.
        num_steps: decode steps after each prompt.
        tolerance: the allowed error per unit of spread.
        comparisons: one entry a scenario.
    """

    runtime: str
    num_prompts: int
    num_steps: int
    tolerance: float
    comparisons: tuple[Comparison, ...]

    @property
    def is_equal(self) -> bool:
        """Whether every scenario is within the tolerance."""
        return all(comparison.is_equal for comparison in self.comparisons)

    @property
    def max_abs_error(self) -> float:
        """Largest error of all scenarios."""
        return max(comparison.max_abs_error for comparison in self.comparisons)

    @property
    def first_failure(self) -> str | None:
        """Scenario and position of the first broken tolerance, None when all is equal."""
        failed = [c for c in self.comparisons if not c.is_equal]
        return f"{failed[0].scenario}: {failed[0].first_failure}" if failed else None

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no infinity: such a figure becomes the text "inf"."""
        fields = asdict(self)
        fields["comparisons"] = [
            {
                name: str(value) if isinstance(value, float) and not np.isfinite(value) else value
                for name, value in comparison.items()
            }
            for comparison in fields["comparisons"]
        ]
        return {"verdict": "equal" if self.is_equal else "different", **fields}


@dataclass(frozen=True, slots=True)
class _Reference:
    """One prompt, the reference's greedy continuation, and its logits at every position of both."""

    prompt: list[int]
    continuation: list[int]
    logits: NDArray[np.float32]  # [len(prompt) + steps, V]; row t predicts token t + 1


_Positions = Iterator[tuple[str, NDArray[np.float32], NDArray[np.float32]]]
"""Where, the reference's values there [V], and the candidate's [V]."""


def compare_runtimes(
    candidate: Runtime,
    reference: Runtime,
    prompts: Sequence[Sequence[int]],
    *,
    tolerance: Tolerance,
    num_steps: int = DEFAULT_STEPS,
) -> ParityReport:
    """Compare two runtimes' logits; the candidate is fed the reference's greedy tokens.

    Args:
        candidate: the runtime to prove.
        reference: the truth.
        prompts: token ids; each is compared alone, in chunks, and as a row of one ragged batch.
        tolerance: how far they may differ.
        num_steps: decode steps after each prompt, at least 1; fewer where the context ends.

    Raises:
        InvalidInputError: no prompts, an empty one, or one that leaves no room for a step.
    """
    if num_steps < 1:
        raise InvalidInputError(f"steps must be at least 1, got {num_steps}")
    room = reference.config.context_length - max((len(prompt) for prompt in prompts), default=0)
    if not prompts or not all(len(prompt) for prompt in prompts) or room < 1:
        raise InvalidInputError(
            "verification needs prompts of at least one token, shorter than the model's context of "
            f"{reference.config.context_length}"
        )
    num_steps = min(num_steps, room)
    references = [_continue_greedily(reference, list(prompt), num_steps) for prompt in prompts]
    scenarios: list[tuple[str, Callable[[Runtime, list[_Reference]], _Positions]]] = [
        ("prefill", _prefill),
        ("cached steps", _cached_steps),
        (f"prefill in chunks of {_CHUNK}", _chunked_prefill),
        ("padded batch, prefill", _batch_prefill),
        ("padded batch, cached steps", _batch_steps),
    ]
    return ParityReport(
        runtime=candidate.name,
        num_prompts=len(prompts),
        num_steps=num_steps,
        tolerance=tolerance.relative,
        comparisons=tuple(
            compare_positions(scenario, positions(candidate, references), tolerance)
            for scenario, positions in scenarios
        ),
    )


def compare_positions(scenario: str, positions: _Positions, tolerance: Tolerance) -> Comparison:
    """Compare values position by position.

    Args:
        scenario: how they came to be, for the report.
        positions: where, the reference's values [V] and the candidate's [V].
        tolerance: how far they may differ.
    """
    total = agreed = near_ties = wrong = 0
    largest = error_sum = max_kl = largest_limit = 0.0
    worst, first_failure = "", None
    for where, expected, actual in positions:
        difference = np.abs(expected - actual)
        # NaN must count as the largest error, not vanish in a comparison.
        error = float(np.nan_to_num(difference, nan=np.inf, posinf=np.inf).max())
        limit = tolerance.limit(expected)
        top, chosen = int(expected.argmax()), int(actual.argmax())
        margin = float(expected[top] - expected[chosen])  # 0 where they agree
        is_wrong = margin > limit
        if error >= largest:
            largest, worst = error, where
        if first_failure is None and (is_wrong or error > limit):
            first_failure = f"{where}: |difference| {error:.3g} (limit {limit:.3g})" + (
                f", token {chosen} instead of {top} at a margin of {margin:.3g}" if chosen != top else ""
            )
        total += 1
        agreed += chosen == top
        near_ties += chosen != top and not is_wrong
        wrong += is_wrong
        error_sum += float(difference.mean())
        max_kl = max(max_kl, kl_divergence(expected, actual))
        largest_limit = max(largest_limit, limit)
    return Comparison(
        scenario=scenario,
        positions=total,
        max_abs_error=largest,
        mean_abs_error=error_sum / total,
        limit=largest_limit,
        top1_agreement=agreed / total,
        near_ties=near_ties,
        wrong_tokens=wrong,
        max_kl=max_kl,
        worst=worst,
        first_failure=first_failure,
    )


def kl_divergence(expected: NDArray[np.float32], actual: NDArray[np.float32]) -> float:
    """KL(softmax(expected) || softmax(actual)) in nats, in float64; both [V]. Infinite where one is not finite."""
    if not (np.isfinite(expected).all() and np.isfinite(actual).all()):
        return float("inf")
    log_p, log_q = _log_softmax(expected), _log_softmax(actual)
    return float((np.exp(log_p) * (log_p - log_q)).sum())


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max()
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result


def _continue_greedily(runtime: Runtime, prompt: list[int], num_steps: int) -> _Reference:
    cache = runtime.new_cache(1, len(prompt) + num_steps)
    logits = [runtime.step(np.array([prompt], np.int64), cache, all_logits=True)[0]]
    continuation: list[int] = []
    for _ in range(num_steps):
        continuation.append(int(logits[-1][-1].argmax()))
        logits.append(runtime.step(np.array([continuation[-1:]], np.int64), cache, all_logits=True)[0])
    return _Reference(prompt, continuation, np.concatenate(logits))


def _where(row: int, position: int) -> str:
    return f"prompt {row}, position {position}"


def _prefill(runtime: Runtime, references: list[_Reference]) -> _Positions:
    for row, truth in enumerate(references):
        cache = runtime.new_cache(1, len(truth.prompt))
        logits = runtime.step(np.array([truth.prompt], np.int64), cache, all_logits=True)[0]
        for position, actual in enumerate(logits):
            yield _where(row, position), truth.logits[position], actual


def _cached_steps(runtime: Runtime, references: list[_Reference]) -> _Positions:
    for row, truth in enumerate(references):
        start = len(truth.prompt)
        cache = runtime.new_cache(1, start + len(truth.continuation))
        # As a generation does it: the last position's logits only.
        logits = runtime.step(np.array([truth.prompt], np.int64), cache)[0]
        yield _where(row, start - 1), truth.logits[start - 1], logits
        for step, token_id in enumerate(truth.continuation):
            logits = runtime.step(np.array([[token_id]], np.int64), cache)[0]
            yield _where(row, start + step), truth.logits[start + step], logits


def _chunked_prefill(runtime: Runtime, references: list[_Reference]) -> _Positions:
    for row, truth in enumerate(references):
        tokens = truth.prompt + truth.continuation
        cache = runtime.new_cache(1, len(tokens))
        for start in range(0, len(tokens), _CHUNK):
            chunk = np.array([tokens[start : start + _CHUNK]], np.int64)
            for offset, actual in enumerate(runtime.step(chunk, cache, all_logits=True)[0]):
                yield _where(row, start + offset), truth.logits[start + offset], actual


def _batch_prefill(runtime: Runtime, references: list[_Reference]) -> _Positions:
    token_ids, counts = _pad([truth.prompt for truth in references])
    cache = runtime.new_cache(len(references), token_ids.shape[1])
    logits = runtime.step(token_ids, cache, counts=counts, all_logits=True)
    for row, truth in enumerate(references):
        for position in range(counts[row]):
            yield _where(row, position), truth.logits[position], logits[row, position]


def _batch_steps(runtime: Runtime, references: list[_Reference]) -> _Positions:
    token_ids, counts = _pad([truth.prompt for truth in references])
    num_steps = len(references[0].continuation)
    cache = runtime.new_cache(len(references), token_ids.shape[1] + num_steps)
    # The padded prefill, so that decode steps run over what padding left in the cache.
    runtime.step(token_ids, cache, counts=counts, all_logits=True)
    for step in range(num_steps):
        column = np.array([[truth.continuation[step]] for truth in references], np.int64)
        logits = runtime.step(column, cache)
        for row, truth in enumerate(references):
            position = counts[row] + step
            yield _where(row, position), truth.logits[position], logits[row]


def _pad(rows: list[list[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pad on the right with 0: [B, T] and the rows' lengths [B]."""
    counts = np.array([len(row) for row in rows], np.int64)
    token_ids = np.zeros((len(rows), counts.max()), np.int64)
    for index, row in enumerate(rows):
        token_ids[index, : len(row)] = row
    return token_ids, counts
