"""Verdicts: programs run in the sandbox, texts are compared."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace

from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.runs.records import SampleLine, VerdictLine
from codegen_edge.evaluation.sandbox import CheckedProgram, Outcome, PrintedProgram, Sandbox
from codegen_edge.evaluation.tasks.humaneval.task import HumanEvalTask
from codegen_edge.evaluation.tasks.task import AnyTask, ExecutedTask, Item, MatchedTask

_WRONG_VALUE, _WRONG_TEXT, _CONTEXT = "value", "text", "context"
_LONGEST = 200  # characters of a value in a message


class Judge:
    """Judges samples of one task.

    Args:
        task: says what is right.
        items: of the task, by their task_id.
        sandboxes: execute programs, each sample in all of them: it passes where it passes everywhere. Empty for a task
            that executes nothing.
        workers: programs at one time.
    """

    def __init__(
        self, task: AnyTask, items: Mapping[str, Item], sandboxes: Sequence[Sandbox] = (), *, workers: int = 1
    ) -> None:
        self._task = task
        self._items = items
        self._sandboxes = list(sandboxes)
        self._workers = workers
        self._references: dict[str, Outcome] = {}
        self._locks: dict[str, threading.Lock] = {task_id: threading.Lock() for task_id in items}

    def verdicts(self, lines: Sequence[SampleLine]) -> Iterator[VerdictLine]:
        """The verdict of each sample, in any order."""
        if isinstance(self._task, MatchedTask):
            yield from (self._matched(self._task, line) for line in lines)
            return
        with ThreadPoolExecutor(self._workers) as pool:
            pending = [pool.submit(self._executed, self._task, line) for line in lines]
            try:
                for future in as_completed(pending):
                    yield future.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _matched(self, task: MatchedTask, line: SampleLine) -> VerdictLine:
        if line.completions is None:
            return _not_fitting(line)
        item = self._items[line.task_id]
        if task.matches(item, line.completions):
            return VerdictLine(task_id=line.task_id, sample=line.sample, passed=True)
        return _failed(line, _WRONG_TEXT, f"expected {item.reference!r}"[:_LONGEST])

    def _executed(self, task: ExecutedTask, line: SampleLine) -> VerdictLine:
        if line.completions is None:
            return _not_fitting(line)
        item = self._items[line.task_id]
        if line.is_whole:
            if not isinstance(task, HumanEvalTask):
                raise InvalidInputError(f"task {task.name} has no whole programs: is_whole is HumanEval's")
            program: CheckedProgram | PrintedProgram = task.whole_program(item, line.completions[0])
        else:
            program = task.program(item, line.completions)
        has_reference = True
        if isinstance(program, CheckedProgram):
            reference = self._reference(task, item)
            has_reference = reference.passed
            if has_reference:
                program = replace(program, assertions=reference.assertions, reference_seconds=reference.seconds)
        outcomes = [sandbox.run(program) for sandbox in self._sandboxes]
        passed = [task.passed(item, outcome) for outcome in outcomes]
        if all(passed):
            return VerdictLine(task_id=line.task_id, sample=line.sample, passed=True, has_reference=has_reference)
        outcome = outcomes[passed.index(False)]
        kind = _WRONG_VALUE if outcome.kind is None else outcome.kind.value
        message = outcome.message or f"got {outcome.value!r}, expected {item.reference}"[:_LONGEST]
        if any(passed):
            message = f"passed in one process, not with its tests in another: {message}"
        return replace(_failed(line, kind, message), has_reference=has_reference)

    def _reference(self, task: ExecutedTask, item: Item) -> Outcome:
        """What the canonical solution shows here: whether it passes, assertions that it reaches, its time."""
        with self._locks[item.task_id]:
            if item.task_id not in self._references:
                self._references[item.task_id] = self._sandboxes[0].run(task.program(item, item.gold))
            return self._references[item.task_id]


def _failed(line: SampleLine, kind: str, message: str) -> VerdictLine:
    return VerdictLine(task_id=line.task_id, sample=line.sample, passed=False, kind=kind, message=message)


def _not_fitting(line: SampleLine) -> VerdictLine:
    return _failed(line, _CONTEXT, f"the text of {line.prompt_tokens} tokens does not fit the context")
