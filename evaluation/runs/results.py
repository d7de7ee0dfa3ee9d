"""Scores of a finished run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from codegen_edge.evaluation.runs.configuration import Configuration
from codegen_edge.evaluation.runs.records import Key, VerdictLine
from codegen_edge.evaluation.tasks.scores import Score, mean_pass_at_k, mean_rate, standard_error, tally

_PASSED = "passed"
_RATES = {"mtpb": "pass rate", "stdlib": "exact match"}
"""What a task's score is called where it is a rate; of other tasks it is pass@k."""


def scored(
    configuration: Configuration,
    verdicts: Mapping[Key, VerdictLine],
    *,
    ks: Sequence[int] = (1,),
    timings: Mapping[str, float],
) -> dict[str, Any]:
    """What results.json holds.

    Args:
        configuration: of the run.
        verdicts: of all samples.
        ks: of pass@k; those above the number of samples are left out.
        timings: of `RunFolder.timings`.
    """
    passed = {key: line.passed for key, line in verdicts.items()}
    counts = tally(passed)
    kinds = Counter(_PASSED if line.passed else line.kind for line in verdicts.values())
    seconds = timings.get("sampling_seconds", 0.0)
    num_passed = sum(passed.values())
    return {
        "task": configuration.task,
        "hash": configuration.hash,
        "about": configuration.about,
        "num_problems": len(counts),
        "num_samples": len(verdicts),
        "num_passed": num_passed,
        "standard_error": standard_error(num_passed, len(verdicts)),
        "scores": {name: _score_fields(score) for name, score in _scores(configuration.task, counts, ks).items()},
        "kinds": {str(kind): kinds[kind] for kind in sorted(kinds, key=str)},
        "problems": {name: {"samples": total, "passed": right} for name, (total, right) in counts.items()},
        "tokens_per_second": timings.get("tokens", 0.0) / seconds if seconds else None,
        "seconds": {"sampling": seconds, "execution": timings.get("execution_seconds", 0.0)},
    }


def _score_fields(score: Score) -> dict[str, Any]:
    interval = None if score.interval is None else list(score.interval)
    return {"value": score.value, "interval": interval, "num_problems": score.num_problems}


def _scores(task: str, counts: Mapping[str, tuple[int, int]], ks: Sequence[int]) -> dict[str, Score]:
    if task not in _RATES:
        fewest = min(total for total, _ in counts.values())
        return {f"pass@{k}": mean_pass_at_k(list(counts.values()), k) for k in ks if k <= fewest}
    # MTPB's cases "57/0", "57/1", … are of one problem: they are drawn anew together.
    problems: dict[str, list[int]] = {}
    for name, (total, right) in counts.items():
        sums = problems.setdefault(name.rpartition("/")[0] if task == "mtpb" else name, [0, 0])
        sums[0] += total
        sums[1] += right
    return {_RATES[task]: mean_rate([right / total for total, right in problems.values()])}
