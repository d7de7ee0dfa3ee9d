"""Scores of a finished run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from codegen_edge.evaluation.runs.configuration import Configuration
from codegen_edge.evaluation.runs.records import Key, VerdictLine
from codegen_edge.evaluation.tasks.scores import Score, mean_pass_at_k, mean_rate, standard_error, tally
from codegen_edge.evaluation.tasks.task import AnyTask

_PASSED = "passed"


def scored(
    configuration: Configuration,
    task: AnyTask,
    verdicts: Mapping[Key, VerdictLine],
    *,
    ks: Sequence[int] = (1,),
    timings: Mapping[str, float],
) -> dict[str, Any]:
    """What results.json holds.

    Args:
        configuration: of the run.
        task: of the run.
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
        "scores": {name: _score_fields(score) for name, score in _scores(task, counts, ks).items()},
        # Of these the tests alone decide: their canonical solution does not pass here.
        "without_reference": sorted({line.task_id for line in verdicts.values() if not line.has_reference}),
        "kinds": {str(kind): kinds[kind] for kind in sorted(kinds, key=str)},
        "problems": {name: {"samples": total, "passed": right} for name, (total, right) in counts.items()},
        "tokens_per_second": timings.get("tokens", 0.0) / seconds if seconds else None,
        "seconds": {"sampling": seconds, "execution": timings.get("execution_seconds", 0.0)},
    }


def _score_fields(score: Score) -> dict[str, Any]:
    interval = None if score.interval is None else list(score.interval)
    return {"value": score.value, "interval": interval, "num_problems": score.num_problems}


def _scores(task: AnyTask, counts: Mapping[str, tuple[int, int]], ks: Sequence[int]) -> dict[str, Score]:
    if task.rate_name is None:
        fewest = min(total for total, _ in counts.values())
        return {f"pass@{k}": mean_pass_at_k(list(counts.values()), k) for k in ks if k <= fewest}
    problems: dict[str, list[int]] = {}
    for item in task.items():
        if item.task_id in counts:
            sums = problems.setdefault(item.problem or item.task_id, [0, 0])
            for place, count in enumerate(counts[item.task_id]):
                sums[place] += count
    return {task.rate_name: mean_rate([right / total for total, right in problems.values()])}
