"""Reading results folders: finished ones, unfinished ones, and those that are refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.report.folders import read_run, read_runs
from codegen_edge.evaluation.runs.configuration import Configuration
from codegen_edge.evaluation.runs.folder import RunFolder
from codegen_edge.evaluation.runs.records import SampleLine, VerdictLine
from codegen_edge.evaluation.runs.results import scored
from codegen_edge.evaluation.tasks.task import Item, Turn
from tests.evaluation.report.synthetic import make_folder, write_object
from tests.evaluation.runs.tasks import EndTask


def read_object(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text())
    return value


def test_a_run_is_what_its_folder_says(tmp_path: Path) -> None:
    run = read_run(make_folder(tmp_path / "a", num_problems=12, num_samples=4, ks=(1, 2)))
    results = read_object(tmp_path / "a/results.json")
    assert run.is_finished
    assert run.num_problems == 12
    assert run.num_samples == 48
    assert [score.name for score in run.scores] == ["pass@1", "pass@2"]
    assert run.scores[0].interval == tuple(results["scores"]["pass@1"]["interval"])
    assert {name: count for name, count in run.kinds.items() if count} == results["kinds"]
    assert list(run.tallies) == [f"HumanEval/{number}" for number in range(12)]


class Lines(EndTask):
    """A task of these items."""

    rate_name = "exact match"

    def __init__(self, items: list[Item]) -> None:
        super().__init__()
        self._items = items

    def items(self) -> list[Item]:
        return self._items


def test_what_the_runner_writes_is_read(tmp_path: Path) -> None:
    configuration = Configuration("stdlib", {"seed": 3, "temperature": 0.0}, {"bundle": "b", "precision": "int8"})
    items = [
        Item(task_id=f"stdlib/name/{at}", turns=(Turn(text="x = ", max_new_tokens=8),), reference="y", gold=("y",))
        for at in range(3)
    ]
    with RunFolder.opened(tmp_path / "a", configuration) as folder:
        folder.set_items(items)
        ids = [item.task_id for item in items]
        texts: list[tuple[str, ...] | None] = [("y",), ("z",), None]
        samples = [SampleLine(task_id=name, sample=0, completions=text) for name, text in zip(ids, texts, strict=True)]
        folder.add_samples(samples, seconds=2.0)
        assert read_run(folder.path).state == "unfinished: 1 of 3 problems, 2 samples not executed yet"
        kinds = (None, "text", "context")
        folder.add_verdicts(
            [
                VerdictLine(task_id=name, sample=0, passed=not kind, kind=kind)
                for name, kind in zip(ids, kinds, strict=True)
            ]
        )
        results = scored(configuration, Lines(items), folder.verdicts, timings=folder.timings())
        folder.finish(results, [(name, 0) for name in ids])
    run = read_run(tmp_path / "a")
    assert run.is_finished
    assert run.kinds == {"passed": 1, "text": 1, "context": 1}
    assert [score.name for score in run.scores] == ["exact match"]
    assert run.scores[0].value == pytest.approx(1 / 3)
    assert run.problems["stdlib/name/0"].reference == "y"
    assert run.tallies["stdlib/name/1"].kept[0].turns == ("z",)


def test_of_each_problem_the_first_passing_and_first_failing_samples_are_kept(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a", num_problems=6, num_samples=20)
    verdicts = [json.loads(line) for line in (folder / "verdicts.jsonl").read_text().splitlines()]
    for task_id, tally in read_run(folder).tallies.items():
        own = [verdict for verdict in verdicts if verdict["task_id"] == task_id]
        firsts = {min(v["sample"] for v in own if v["passed"] is passed) for passed in (True, False)}
        assert {sample.sample for sample in tally.kept} == firsts
        assert tally.first_passed is own[0]["passed"]


def test_the_order_of_lines_and_repeated_lines_change_nothing(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a", num_problems=5, num_samples=6)
    before = read_run(folder)
    for name in ("samples.jsonl", "verdicts.jsonl"):
        lines = (folder / name).read_text().splitlines(keepends=True)
        (folder / name).write_text("".join([*reversed(lines), *lines[:7]]))
    assert read_run(folder) == before


@pytest.mark.parametrize("name", ["samples.jsonl", "verdicts.jsonl", "problems.jsonl"])
def test_a_last_line_that_is_being_written_is_left_out(tmp_path: Path, name: str) -> None:
    folder = make_folder(tmp_path / "a", num_problems=4, finished_problems=2)
    with (folder / name).open("a") as file:
        file.write('{"task_id": "HumanEval/2", "sam')
    assert read_run(folder).state == "unfinished: 2 of 4 problems"


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a", num_problems=4)
    lines = (folder / "verdicts.jsonl").read_text().splitlines(keepends=True)
    (folder / "verdicts.jsonl").write_text("".join([lines[0], lines[1][:20] + "\n", *lines[2:]]))
    with pytest.raises(InvalidInputError, match=r"verdicts\.jsonl line 2 is damaged: no JSON"):
        read_run(folder)


def test_an_unfinished_run_says_how_far_it_came(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a", num_problems=164, finished_problems=40)
    assert read_run(folder).state == "unfinished: 40 of 164 problems"
    lines = (folder / "verdicts.jsonl").read_text().splitlines(keepends=True)
    (folder / "verdicts.jsonl").write_text("".join(lines[:30]))
    run = read_run(folder)
    assert run.state == "unfinished: 30 of 164 problems, 10 samples not executed yet"
    assert run.scores == ()
    (folder / "verdicts.jsonl").unlink()
    (folder / "problems.jsonl").unlink()
    assert read_run(folder).state == "unfinished: 0 problems, 40 samples not executed yet"


def test_a_prompt_that_does_not_fit_counts_as_failed(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a", num_problems=2, chances=1.0, finished_problems=1)
    known = json.loads((folder / "samples.jsonl").read_text())
    sample = {**known, "task_id": "HumanEval/1", "completions": None, "problem": "context"}
    with (folder / "samples.jsonl").open("a") as file:
        file.write(json.dumps(sample) + "\n")
    run = read_run(folder)
    assert run.kinds == {"passed": 1, "context": 1}
    assert run.tallies["HumanEval/1"].kept[0].message == "the prompt does not fit the context"


def _remove(name: str) -> Any:
    return lambda folder: (folder / name).unlink()


def _change(name: str, **values: Any) -> Any:
    return lambda folder: write_object(folder / name, {**read_object(folder / name), **values})


def _write(name: str, content: bytes) -> Any:
    return lambda folder: (folder / name).write_bytes(content)


DAMAGE = {
    "no configuration": (_remove("configuration.json"), "it holds no configuration.json"),
    "another format": (_change("configuration.json", format=2), "format must be 1, .* it is 2"),
    "no hash": (_change("configuration.json", hash=None), "configuration.json: hash must be a string, it is null"),
    "about of another type": (_change("configuration.json", about=[]), "about must be an object"),
    "results of another run": (_change("results.json", hash="ff"), "mixes two runs: hash is ff in results.json"),
    "results of another task": (_change("results.json", task="mtpb"), "mixes two runs: task is mtpb"),
    "samples of another run": (
        _write("samples.jsonl", b'{"configuration": "ff"}\n'),
        r"samples.jsonl line 1 is of configuration ff, .* two runs were written into one folder",
    ),
    "a score that is no number": (
        _change("results.json", scores={"pass@1": {"value": float("nan")}}),
        "pass@1: value must be a finite number, it is NaN",
    ),
    "a score out of range": (_change("results.json", scores={"pass@1": {"value": 3}}), "must be between 0 and 1"),
    "half an interval": (_change("results.json", scores={"a": {"value": 0.1, "interval": [0.1]}}), "two numbers"),
    "an interval in disorder": (_change("results.json", scores={"a": {"value": 0.1, "interval": [1, 0]}}), "in order"),
    "no verdicts": (_remove("verdicts.jsonl"), "verdicts.jsonl beside it is missing or empty"),
    "verdicts that say otherwise": (
        _change("results.json", problems={"HumanEval/0": {"samples": 9, "passed": 9}}),
        "HumanEval/0 passed 9 of 9 times, by verdicts.jsonl",
    ),
    "no object": (_write("results.json", b"[]"), "results.json is damaged: a JSON object was expected, found list"),
    "an empty file": (_write("results.json", b""), "results.json is damaged: no JSON"),
    "no UTF-8": (_write("problems.jsonl", b'{"task_id": "\xff"}\n'), "problems.jsonl line 1 is damaged"),
    "nested without end": (_write("configuration.json", b"[" * 100_000), "configuration.json is damaged"),
    "a failure that is called passed": (
        _write("verdicts.jsonl", b'{"configuration": "KEY", "passed": false, "kind": "passed"}\n'),
        "kind must be a kind of failure",
    ),
    "a failure without a kind": (
        _write("verdicts.jsonl", b'{"configuration": "KEY", "passed": false, "kind": null, "sample": 0}\n'),
        "kind must be a string",
    ),
    "a completion that is no text": (
        _write(
            "samples.jsonl", b'{"configuration": "KEY", "task_id": "HumanEval/0", "sample": 0, "completions": [3]}\n'
        ),
        "completions must be null or a list of strings",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    folder = make_folder(tmp_path / "a")
    key = read_object(folder / "configuration.json")["hash"].encode()
    damage, message = DAMAGE[name]
    damage(folder)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(b"KEY", key))
    with pytest.raises(InvalidInputError, match=message) as caught:
        read_run(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_folders_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="missing is not a results folder: missing"):
        read_runs([tmp_path / "missing"])
    with pytest.raises(InvalidInputError, match="no results folder was given"):
        read_runs([])
    folder = make_folder(tmp_path / "a", finished_problems=1)
    with pytest.raises(InvalidInputError, match="was given twice"):
        read_runs([folder, folder / ".." / "a"])
    (folder / "samples.jsonl").unlink()
    with pytest.raises(InvalidInputError, match="holds no samples"):
        read_run(folder)


def test_labels_tell_runs_apart_and_are_short(tmp_path: Path) -> None:
    plain = [make_folder(tmp_path / "a"), make_folder(tmp_path / "b", precision="int8", seed=1)]
    assert [run.label for run in read_runs(plain)] == ["fp32 cpu", "int8 cpu"]
    twice = [*plain, make_folder(tmp_path / "c", precision="int8", seed=2)]
    labels = [run.label for run in read_runs(twice)]
    assert len(set(labels)) == 3
    assert all(label.startswith(("fp32 cpu", "int8 cpu")) for label in labels)
    nameless = make_folder(tmp_path / "d", about={"precision": None, "runtime": None, "bundle": None})
    assert [run.label for run in read_runs([nameless])] == ["d"]
    other_task = make_folder(tmp_path / "e", task="mtpb")
    assert [run.label for run in read_runs([plain[0], other_task])] == ["fp32 cpu", "fp32 cpu"]
