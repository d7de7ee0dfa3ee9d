"""Results folders as `evaluate humaneval` writes them, without a model: verdicts are drawn, texts are made up."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from codegen_edge.evaluation.tasks.scores import mean_pass_at_k

KINDS = ("assertion", "assertion", "assertion", "exception", "name", "syntax", "timeout", "memory")
MESSAGES = {
    "assertion": "AssertionError: 1 of 7 assertions was reached",
    "exception": "TypeError: unsupported operand type(s) for +: 'int' and 'str'",
    "name": "NameError: name 'math' is not defined",
    "syntax": "SyntaxError: unterminated string literal (line 9)",
    "timeout": "stopped after 3.0 seconds",
    "memory": "MemoryError",
}
PROMPT = (
    "from typing import List\n\n\ndef solve_{0}(values: List[int]) -> int:\n"
    '    """Sum of the values over {0}.\n    >>> solve_{0}([1, 2])\n    """\n'
)
REFERENCE = (
    "    total = 0\n    for value in values:\n        if value > {0}:\n            total += value\n    return total\n"
)
CODE = (
    "    total = 0\n    for value in values:\n        if value > {0}:\n            total += value\n    return total\n",
    "    return sum(value for value in values if value > {0})\n",
    "    total = 0\n    for value in values:\n        total += value\n    return total\n",
    "    result = []\n    for value in values:\n        result.append(value)\n    return result\n",
    "    return math.fsum(values) - {0}\n",
)


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def make_folder(
    folder: Path,
    *,
    task: str = "humaneval",
    precision: str = "fp32",
    runtime: str = "cpu",
    chances: float | Iterable[float] = 0.5,
    num_problems: int = 8,
    num_samples: int = 1,
    seed: int = 0,
    completion: str | None = None,
    message: str | None = None,
    num_turns: int = 1,
    bundle_bytes: int | None = 350_000_000,
    tokens_per_second: float | None = 40.0,
    about: Mapping[str, Any] | None = None,
    configuration: Mapping[str, Any] | None = None,
    ks: Iterable[int] = (1,),
    finished_problems: int | None = None,
) -> Path:
    """A folder of drawn results.

    Args:
        chances: that a sample passes: one number, or one for each problem.
        completion: of every sample; made up where None.
        message: of every failure; made up where None.
        finished_problems: leaves the run unfinished after so many.
    """
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    chances = [chances] * num_problems if isinstance(chances, float | int) else list(chances)
    key = f"{seed:04x}{len(precision + runtime):012x}"
    ids = [f"HumanEval/{number}" if task == "humaneval" else f"{number}/0" for number in range(num_problems)]
    samples, verdicts = [], []
    for number, task_id in enumerate(ids[:finished_problems]):
        for sample in range(num_samples):
            passed = bool(generator.random() < chances[number])
            kind = None if passed else str(generator.choice(KINDS))
            code = CODE[int(generator.integers(0, 2) if passed else generator.integers(2, len(CODE)))]
            text = code.format(number) if completion is None else completion
            shared = {"task_id": task_id, "sample": sample, "seed": sample, "configuration": key}
            completions = [text] * num_turns
            samples.append(
                {**shared, "completions": completions, "num_tokens": 40, "prompt_tokens": 90, "finish_reason": "stop"}
            )
            told = "" if kind is None else MESSAGES[kind] if message is None else message
            verdicts.append({**shared, "passed": passed, "kind": kind, "message": told, "seconds": 0.01})
    known = {
        **{"bundle": f"codegen-350M-mono-{precision}", "precision": precision, "runtime": runtime},
        **{"bundle_bytes": bundle_bytes, "versions": {"onnxruntime": "1.27.0", "codegen-edge": "0.1.0"}},
        **{"processor": "AMD EPYC 9654 96-Core Processor", "cores": 2, "sandbox": "bubblewrap", **(about or {})},
    }
    settings = {"temperature": 0.2, "top_p": 0.95, "num_samples": num_samples, **(configuration or {})}
    write_object(
        folder / "configuration.json",
        {"format": 1, "task": task, "hash": key, "configuration": settings, "about": known},
    )
    write_lines(folder / "samples.jsonl", samples)
    write_lines(folder / "verdicts.jsonl", verdicts)
    write_lines(
        folder / "problems.jsonl",
        (
            {"task_id": task_id, "prompt": PROMPT.format(number), "reference": REFERENCE.format(number)}
            for number, task_id in enumerate(ids)
        ),
    )
    if finished_problems is None:
        results = {"task": task, "hash": key, "about": known, "tokens_per_second": tokens_per_second}
        write_object(folder / "results.json", {**results, **counted(verdicts, ks), "seconds": {"sampling": 1.0}})
    return folder


def counted(verdicts: list[dict[str, Any]], ks: Iterable[int]) -> dict[str, Any]:
    """What results.json counts."""
    tallies: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for verdict in verdicts:
        tallies[verdict["task_id"]][0] += 1
        tallies[verdict["task_id"]][1] += verdict["passed"]
    scores = {f"pass@{k}": mean_pass_at_k([(total, passed) for total, passed in tallies.values()], k) for k in ks}
    return {
        "num_problems": len(tallies),
        "num_samples": len(verdicts),
        "scores": {name: {"value": score.value, "interval": score.interval} for name, score in scores.items()},
        "kinds": Counter(verdict["kind"] or "passed" for verdict in verdicts),
        "problems": {task_id: {"samples": total, "passed": passed} for task_id, (total, passed) in tallies.items()},
    }


def write_object(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
