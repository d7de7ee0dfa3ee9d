"""Reading results folders: finished, unfinished, or refused in one line."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.report.json_fields import Fields, cleaned, read_lines, read_object
from codegen_edge.evaluation.report.results import (
    PASSED,
    About,
    KeptSample,
    Problem,
    Run,
    Score,
    Tally,
    labelled,
    natural_order,
)

_FORMAT = 1
_LONGEST_MESSAGE = 500  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    sample: int
    passed: bool
    kind: str | None
    message: str


@dataclass(slots=True, kw_only=True)
class _Counted:
    """What verdicts and samples of one problem say so far."""

    seen: set[int] = field(default_factory=set)
    kinds: Counter[str] = field(default_factory=Counter)
    first: _Verdict | None = None
    passing: _Verdict | None = None
    failing: _Verdict | None = None
    kept: dict[int, KeptSample] = field(default_factory=dict)

    def add(self, verdict: _Verdict) -> None:
        if verdict.sample in self.seen:
            return  # a run that was resumed may have written it twice
        self.seen.add(verdict.sample)
        self.kinds[PASSED if verdict.passed else verdict.kind or "unknown"] += 1
        if self.first is None or verdict.sample < self.first.sample:
            self.first = verdict
        shown = self.passing if verdict.passed else self.failing
        if shown is None or verdict.sample < shown.sample:
            if verdict.passed:
                self.passing = verdict
            else:
                self.failing = verdict

    def shown(self, sample: int) -> _Verdict | None:
        return next((each for each in (self.passing, self.failing) if each and each.sample == sample), None)

    def tally(self) -> Tally:
        kept = [self.kept[each.sample] for each in (self.passing, self.failing) if each and each.sample in self.kept]
        return Tally(
            kinds=dict(self.kinds),
            first_passed=self.first is not None and self.first.passed,
            kept=tuple(sorted(kept, key=lambda each: each.sample)),
        )


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs of several results folders, labelled.

    Raises:
        InvalidInputError: none is given, one is given twice, is missing or is damaged.
    """
    if not folders:
        raise InvalidInputError("no results folder was given")
    seen: dict[Path, Path] = {}
    for folder in folders:
        if folder.resolve() in seen:
            raise InvalidInputError(f"{folder} was given twice")
        seen[folder.resolve()] = folder
    return labelled([read_run(folder) for folder in folders])


def read_run(folder: Path) -> Run:
    """One results folder.

    Raises:
        InvalidInputError: it is missing, damaged, or holds results of more than one configuration.
    """
    if not folder.is_dir():
        raise InvalidInputError(f"{folder} is not a results folder: {'not a folder' if folder.exists() else 'missing'}")
    if not (folder / "configuration.json").is_file():
        raise InvalidInputError(f"{folder} is not a results folder: it holds no configuration.json")
    configuration = read_object(folder / "configuration.json")
    if configuration.values.get("format") != _FORMAT:
        raise configuration.wrong("format", f"{_FORMAT}, the only one that this version reads")
    key = configuration.text("hash")
    results = _results(folder, configuration)
    if results is None and not (folder / "samples.jsonl").is_file():
        raise InvalidInputError(f"{folder} holds no samples: neither results.json nor samples.jsonl; run it first")
    counted = _counted(folder, key)
    num_waiting = _add_samples(folder, key, counted)
    problems = _problems(folder)
    tallies = {name: each.tally() for name, each in sorted(counted.items(), key=lambda item: natural_order(item[0]))}
    if results is not None:
        _check(results, tallies)
    return Run(
        folder=folder,
        label="",
        task=configuration.text("task"),
        hash=key,
        configuration=configuration.object("configuration").values,
        about=_about(configuration.object("about")),
        is_finished=results is not None,
        scores=() if results is None else _scores(results),
        problems=problems,
        tallies={name: tally for name, tally in tallies.items() if tally.num_samples},
        num_problems=(len(problems) or None) if results is None else results.count("num_problems"),
        num_waiting=num_waiting,
        tokens_per_second=None if results is None else results.optional_number("tokens_per_second"),
    )


def _results(folder: Path, configuration: Fields) -> Fields | None:
    """results.json, which a finished run has."""
    path = folder / "results.json"
    if not path.is_file():
        return None
    results = read_object(path)
    for name in ("task", "hash"):
        if results.text(name) != configuration.text(name):
            raise InvalidInputError(
                f"{folder} mixes two runs: {name} is {results.text(name)} in results.json and "
                f"{configuration.text(name)} in configuration.json"
            )
    return results


def _about(fields: Fields) -> About:
    return About(
        bundle=fields.optional_text("bundle"),
        precision=fields.optional_text("precision"),
        runtime=fields.optional_text("runtime"),
        bundle_bytes=fields.optional_count("bundle_bytes"),
        sandbox=fields.optional_text("sandbox"),
        processor=fields.optional_text("processor"),
        values=fields.values,
    )


def _scores(results: Fields) -> tuple[Score, ...]:
    fields = results.object("scores")
    scores = []
    for name in fields.values:
        score = fields.object(name)
        value = score.finite("value", score.values.get("value"))
        bounds = score.values.get("interval")
        if bounds is not None and (not isinstance(bounds, list) or len(bounds) != 2):
            raise score.wrong("interval", "null or two numbers")
        interval = (
            None if bounds is None else (score.finite("interval", bounds[0]), score.finite("interval", bounds[1]))
        )
        if not all(0 <= each <= 1 for each in (value, *(interval or ()))):
            raise score.wrong("value", "between 0 and 1, as its interval")
        if interval is not None and interval[0] > interval[1]:
            raise score.wrong("interval", "two numbers in order")
        scores.append(Score(name=cleaned(name), value=value, interval=interval))
    return tuple(scores)


def _counted(folder: Path, key: str) -> dict[str, _Counted]:
    """The verdicts, by problem."""
    counted: dict[str, _Counted] = defaultdict(_Counted)
    path = folder / "verdicts.jsonl"
    if not path.is_file():
        return counted
    for fields in read_lines(path):
        _check_key(fields, key)
        passed = fields.truth("passed")
        if not passed and fields.text("kind") == PASSED:
            raise fields.wrong("kind", "a kind of failure")
        verdict = _Verdict(
            sample=fields.count("sample"),
            passed=passed,
            kind=None if passed else fields.text("kind"),
            message=fields.optional_text("message")[:_LONGEST_MESSAGE],
        )
        counted[fields.text("task_id")].add(verdict)
    return counted


def _add_samples(folder: Path, key: str, counted: dict[str, _Counted]) -> int:
    """Keep the text of samples that are shown, count those whose prompt did not fit; gives how many have no verdict."""
    path = folder / "samples.jsonl"
    if not path.is_file():
        return 0
    waiting: set[tuple[str, int]] = set()
    for fields in read_lines(path):
        _check_key(fields, key)
        task_id, sample = fields.text("task_id"), fields.count("sample")
        one = counted[task_id]
        if sample not in one.seen:
            if fields.values.get("completions") is not None:
                waiting.add((task_id, sample))
                continue
            kind = fields.optional_text("problem") or "context"
            one.add(_Verdict(sample=sample, passed=False, kind=kind, message="the prompt does not fit the context"))
        verdict = one.shown(sample)
        if verdict is not None:
            one.kept[sample] = _kept(fields, verdict)
    return len(waiting)


def _kept(fields: Fields, verdict: _Verdict) -> KeptSample:
    turns = fields.values.get("completions")
    if turns is None:
        turns = []
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        raise fields.wrong("completions", "null or a list of strings")
    return KeptSample(
        sample=verdict.sample,
        passed=verdict.passed,
        kind=verdict.kind,
        message=verdict.message,
        turns=tuple(turns),
        num_tokens=fields.optional_count("num_tokens"),
        finish_reason=fields.optional_text("finish_reason"),
    )


def _problems(folder: Path) -> dict[str, Problem]:
    path = folder / "problems.jsonl"
    if not path.is_file():
        return {}
    problems = {}
    for fields in read_lines(path):
        problem = Problem(
            task_id=fields.text("task_id"),
            prompt=fields.optional_text("prompt"),
            reference=fields.optional_text("reference"),
        )
        problems[problem.task_id] = problem
    return problems


def _check_key(fields: Fields, key: str) -> None:
    if fields.text("configuration") != key:
        raise InvalidInputError(
            f"{fields.where} is of configuration {fields.text('configuration')}, the folder is of {key}: "
            "two runs were written into one folder"
        )


def _check(results: Fields, tallies: Mapping[str, Tally]) -> None:
    """A finished run has a verdict for every sample that its results count."""
    if not any(tally.num_samples for tally in tallies.values()):
        raise InvalidInputError(f"{results.where} counts results, but verdicts.jsonl beside it is missing or empty")
    said = results.object("problems")
    missing = [task_id for task_id in said.values if task_id not in tallies]
    if missing and tallies.keys() <= said.values.keys():
        raise InvalidInputError(f"{results.where} counts {missing[0]}, of which verdicts.jsonl beside it says nothing")
    for task_id, tally in tallies.items():
        if task_id not in said.values:
            continue  # results may count several inputs as one problem
        numbers = said.object(task_id)
        wanted = numbers.count("passed"), numbers.count("samples")
        if wanted != (tally.num_passed, tally.num_samples):
            raise InvalidInputError(
                f"{results.where}: {task_id} passed {wanted[0]} of {wanted[1]} times, by verdicts.jsonl "
                f"{tally.num_passed} of {tally.num_samples}; execute the samples once more"
            )
