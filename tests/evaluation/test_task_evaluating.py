"""A task from its items to results.json: resumed, killed, refused."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from codegen_edge.bundle import Bundle
from codegen_edge.errors import IntegrityError, InvalidInputError, StorageError
from codegen_edge.evaluation.runs import RunFolder, SampleLine, Settings
from codegen_edge.evaluation.tasks.humaneval.problems import HumanEvalProblem
from codegen_edge.evaluation.tasks.humaneval.task import HumanEvalTask
from codegen_edge.workflows.task_evaluating import evaluate_task
from tests.evaluation.runs.tasks import EndTask, TalkTask

SAMPLED = Settings(num_samples=4, temperature=0.8, seed=5)


def evaluated(task: EndTask, out: Path, bundle: Bundle, **options: Any) -> dict[str, Any]:
    return evaluate_task(task, out, **{"bundle": bundle, "settings": SAMPLED, "threads": 1, **options})


def files(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in ("samples.jsonl", "verdicts.jsonl", "problems.jsonl")}


def test_results_count_every_sample(tmp_path: Path, tiny_bundle: Bundle) -> None:
    results = evaluated(EndTask(), tmp_path / "out", tiny_bundle, ks=(1, 2, 100))
    assert results == json.loads((tmp_path / "out" / "results.json").read_bytes())
    assert list(results["scores"]) == ["pass@1", "pass@2"]
    assert (results["num_problems"], results["num_samples"]) == (7, 28)
    assert sum(results["kinds"].values()) == 28
    assert results["scores"]["pass@1"]["value"] == pytest.approx(results["num_passed"] / 28)
    assert results["about"]["bundle"] == tiny_bundle.path.name
    assert results["tokens_per_second"] > 0


def test_second_run_computes_nothing(tmp_path: Path, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluated(EndTask(), tmp_path / "out", tiny_bundle)
    before = files(tmp_path / "out")

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("codegen_edge.workflows.task_evaluating.load_model", refuse)
    assert evaluated(EndTask(), tmp_path / "out", tiny_bundle) == first
    assert files(tmp_path / "out") == before


def test_batch_is_no_part_of_an_exact_run(tmp_path: Path, tiny_bundle: Bundle) -> None:
    evaluated(EndTask(), tmp_path / "one", tiny_bundle, batch=1)
    evaluated(EndTask(), tmp_path / "many", tiny_bundle, batch=8)
    assert files(tmp_path / "one") == files(tmp_path / "many")
    evaluated(EndTask(), tmp_path / "one", tiny_bundle, batch=8)
    evaluated(EndTask(), tmp_path / "plain", tiny_bundle, batch=1, exact_steps=False)
    with pytest.raises(InvalidInputError, match="batch 1 instead of 8"):
        evaluated(EndTask(), tmp_path / "plain", tiny_bundle, batch=8, exact_steps=False)


class StopError(Exception):
    pass


@pytest.mark.parametrize("task", [EndTask(), TalkTask(max_new_tokens=4)], ids=["turns", "conversations"])
def test_interrupted_run_equals_an_unbroken_one(
    task: EndTask, tmp_path: Path, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codegen_edge.workflows.task_evaluating._LINES_OF_A_WRITE", 3)
    evaluated(task, tmp_path / "whole", tiny_bundle)
    rng = random.Random(1)

    def interrupt(stage: str, done: int, total: int | None) -> None:
        if rng.random() < 0.1:
            raise StopError

    for _ in range(200):
        try:
            evaluated(task, tmp_path / "broken", tiny_bundle, on_stage=interrupt)
        except StopError:
            continue
        break
    assert files(tmp_path / "broken") == files(tmp_path / "whole")


SCRIPT = """
import sys
from pathlib import Path
from codegen_edge.evaluation.runs import Settings
from codegen_edge.workflows import task_evaluating
from tests.evaluation.runs.tasks import EndTask
task_evaluating._LINES_OF_A_WRITE = 2
task_evaluating.evaluate_task(
    EndTask(),
    Path(sys.argv[2]),
    bundle=sys.argv[1],
    settings=Settings(num_samples=4, temperature=0.8, seed=5),
    threads=1,
    on_stage=lambda stage, done, total: print(stage, done, flush=True),
)
print("done", flush=True)
"""


def test_killed_run_equals_an_unbroken_one(tmp_path: Path, tiny_bundle: Bundle) -> None:
    evaluated(EndTask(), tmp_path / "whole", tiny_bundle)
    out, rng = tmp_path / "killed", random.Random(2)
    command = [sys.executable, "-c", SCRIPT, str(tiny_bundle.path), str(out)]
    num_killed = 0
    for _ in range(12):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
            assert process.stdout is not None
            for _, said in zip(range(rng.randrange(2, 9)), process.stdout, strict=False):
                if said == "done\n":
                    break
            time.sleep(rng.random() * 0.01)
            process.send_signal(signal.SIGKILL)
            num_killed += process.wait() == -signal.SIGKILL
        if (out / "results.json").is_file():
            break
    assert num_killed >= 3
    evaluated(EndTask(), out, tiny_bundle)
    assert files(out) == files(tmp_path / "whole")


def test_full_disk_keeps_what_was_finished(
    tmp_path: Path, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codegen_edge.workflows.task_evaluating._LINES_OF_A_WRITE", 4)
    add = RunFolder.add_samples
    added: list[int] = []

    def full(self: RunFolder, lines: Sequence[SampleLine], **options: Any) -> None:
        if len(added) == 3:
            raise StorageError("no room left")
        added.append(len(lines))
        add(self, lines, **options)

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "add_samples", full)
        with pytest.raises(StorageError):
            evaluated(EndTask(), tmp_path / "out", tiny_bundle)
    assert len((tmp_path / "out" / "samples.jsonl").read_bytes().splitlines()) == sum(added)
    evaluated(EndTask(), tmp_path / "whole", tiny_bundle)
    evaluated(EndTask(), tmp_path / "out", tiny_bundle)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


PROBLEM = HumanEvalProblem(
    task_id="Small/0",
    prompt="def add(a, b):\n",
    canonical_solution="    return a + b\n",
    test="def check(candidate):\n    assert candidate(1, 2) == 3\n",
    entry_point="add",
)


def test_nothing_is_executed_unless_it_is_allowed(tmp_path: Path, tiny_bundle: Bundle) -> None:
    with pytest.raises(InvalidInputError, match="allow it"):
        evaluate_task(HumanEvalTask([PROBLEM]), tmp_path / "out", bundle=tiny_bundle)
    assert not (tmp_path / "out").exists()


def test_either_a_bundle_or_samples(tmp_path: Path, tiny_bundle: Bundle) -> None:
    for given in ({}, {"bundle": tiny_bundle, "given": []}):
        with pytest.raises(InvalidInputError, match="either a bundle or samples"):
            evaluate_task(EndTask(), tmp_path / "out", **given)  # type: ignore[arg-type]


def test_prompt_that_does_not_fit_is_counted(tmp_path: Path, tiny_bundle: Bundle) -> None:
    results = evaluated(EndTask(("a", "x = 1\n" * 200)), tmp_path / "out", tiny_bundle)
    assert results["kinds"]["context"] == 4
    assert results["problems"]["end/1"] == {"samples": 4, "passed": 0}


def test_bundle_that_was_exchanged_meanwhile_is_refused(
    tmp_path: Path, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bundle, "fingerprint", property(lambda self: str(id(self))))
    with pytest.raises(IntegrityError, match="not the bundle any more"):
        evaluated(EndTask(), tmp_path / "out", tiny_bundle)
