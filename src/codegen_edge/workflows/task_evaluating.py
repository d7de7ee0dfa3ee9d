"""Does a bundle still write correct programs? One call for every task, resumed where it was interrupted."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol, TypeVar

from codegen_edge.bundle import Bundle, open_bundle
from codegen_edge.dependencies import package_versions
from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.runs import (
    Configuration,
    Judge,
    ModelSampler,
    RunFolder,
    SampleLine,
    Sampler,
    Settings,
    VerdictLine,
    Work,
    require_fingerprint,
    scored,
)
from codegen_edge.evaluation.sandbox import Sandbox
from codegen_edge.evaluation.tasks.task import AnyTask, ExecutedTask, Item
from codegen_edge.generation.model import load_model
from codegen_edge.machine import processor_name
from codegen_edge.workflows.progress import OnStage, silent

_LineT = TypeVar("_LineT", SampleLine, VerdictLine)
_LineT_contra = TypeVar("_LineT_contra", contravariant=True)

# What an interruption may lose: the lines that were not written yet.
_LINES_OF_A_WRITE, _SECONDS_OF_A_WRITE = 32, 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """Whether and how programs of a model are executed.

    Attributes:
        allowed: nothing is executed without it.
        unsandboxed: whether to go on, with limits only, where bubblewrap does not work.
        strict: whether the tests also run in another process than the program; a sample has to pass both ways.
        workers: programs at one time; None takes one per processor.
    """

    allowed: bool = False
    unsandboxed: bool = False
    strict: bool = False
    workers: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where samples are drawn with Ray.

    Attributes:
        address: of the cluster, "auto" or "local".
        workers: actors.
    """

    address: str
    workers: int = 2


class _Add(Protocol[_LineT_contra]):
    def __call__(self, lines: Sequence[_LineT_contra], *, seconds: float) -> None: ...


def evaluate_task(
    task: AnyTask,
    out: str | Path,
    *,
    bundle: str | Path | Bundle | None = None,
    given: Sequence[SampleLine] | None = None,
    given_from: str = "",
    settings: Settings | None = None,
    ks: Sequence[int] = (1,),
    batch: int = 8,
    runtime: str = "cpu",
    threads: int | None = None,
    exact_steps: bool | None = None,
    execution: Execution | None = None,
    cluster: Cluster | None = None,
    on_stage: OnStage = silent,
) -> dict[str, Any]:
    """Write completions for a task's items, judge them, and keep both in a folder.

    A run that was interrupted goes on where it was; one that is finished gives its results at once.

    Args:
        task: HumanEvalTask, MtpbTask, StdlibTask, or one of your own.
        out: the results folder; it is made, or holds a run of the same configuration.
        bundle: writes the completions; its folder, or opened.
        given: completions that somebody wrote already, instead of a bundle.
        given_from: hash of what they were read from.
        settings: how samples are drawn.
        ks: of pass@k.
        batch: rows at one time.
        runtime: runs the bundle.
        threads: CPU threads of the runtime; None takes all.
        exact_steps: whether samples are the same bits for every `batch`; without, `batch` is part of the
            configuration. None does so on runtime cpu; others refuse True.
        execution: whether and how programs are executed.
        cluster: draws samples with Ray.
        on_stage: called with the progress.

    Returns:
        What results.json holds.

    Raises:
        InvalidInputError: neither or both of bundle and given; execution is not allowed; no k is within the samples of
            a problem; the folder is of another configuration.
        RuntimeUnavailableError: no runtime, no sandbox, no cluster.
        StorageError: the folder cannot be written; what is finished is kept.
    """
    settings, execution = settings or Settings(), execution or Execution()
    if (bundle is None) == (given is None):
        raise InvalidInputError("give either a bundle or samples")
    if isinstance(task, ExecutedTask) and not execution.allowed:
        raise InvalidInputError(
            f"{task.name} executes programs that a model wrote, in a sandbox; allow it", hint="--allow-execution"
        )
    opened = None if bundle is None else bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    is_exact = runtime == "cpu" if exact_steps is None else exact_steps
    if task.rate_name is None:
        _check_ks(ks, settings.num_samples if given is None else min(Counter(line.task_id for line in given).values()))
    with ExitStack() as stack:
        sandboxes = [stack.enter_context(each) for each in _sandboxes(task, execution)]
        configuration = Configuration(
            task=task.name,
            fields=_fields(task, settings, opened, given_from, execution, sandboxes)
            | ({} if opened is None else {"runtime": runtime, "exact_steps": is_exact})
            | ({} if opened is None or is_exact else {"batch": batch}),
            about=_about(opened, runtime, sandboxes),
        )
        folder = stack.enter_context(RunFolder.opened(Path(out), configuration))
        items = list(task.items())
        if not (folder.path / "problems.jsonl").is_file():
            folder.set_items(items)
        if given is not None:
            folder.add_samples(given)
            order = [line.key for line in given]
        else:
            assert opened is not None
            order = [(item.task_id, number) for item in items for number in range(settings.num_samples)]
            work = _missing(items, folder, settings.num_samples)
            if work:
                options = {"threads": threads} | ({"exact_steps": True} if is_exact else {})
                sampler = stack.enter_context(
                    _open_sampler(opened, task, settings, batch, {"runtime": runtime, **options}, cluster)
                )
                total = sum(each.num_samples for each in work)
                _store(sampler.sample(work), folder.add_samples, lambda n: on_stage("writing", n, total))
        _judge(task, items, folder, sandboxes, execution, on_stage)
        verdicts = {key: folder.verdicts[key] for key in order}
        results = scored(configuration, task, verdicts, ks=ks, timings=folder.timings())
        folder.finish(results, order)
        return results


def _check_ks(ks: Sequence[int], num_samples: int) -> None:
    if not any(1 <= k <= num_samples for k in ks):
        raise InvalidInputError(
            f"pass@k needs a k in 1…{num_samples}, the samples of each problem, got {', '.join(map(str, ks))}"
        )


def _judge(
    task: AnyTask,
    items: Sequence[Item],
    folder: RunFolder,
    sandboxes: Sequence[Sandbox],
    execution: Execution,
    on_stage: OnStage,
) -> None:
    open_lines = [line for key, line in folder.samples.items() if key not in folder.verdicts]
    workers = execution.workers or os.cpu_count() or 1
    for sandbox in sandboxes if open_lines else ():
        sandbox.calibrate()  # a slow or busy machine gets more time
    judge = Judge(task, {item.task_id: item for item in items}, sandboxes, workers=workers)
    total = len(open_lines)
    _store(judge.verdicts(open_lines), folder.add_verdicts, lambda n: on_stage("executing", n, total))


def _store(lines: Iterator[_LineT], add: _Add[_LineT], on_line: Callable[[int], None]) -> None:
    """Write lines to the folder as they come, some at a time; what came before an interruption is written, too."""
    waiting: list[_LineT] = []
    count, started_at = 0, time.monotonic()
    try:
        for count, line in enumerate(lines, start=1):
            waiting.append(line)
            seconds = time.monotonic() - started_at
            if len(waiting) >= _LINES_OF_A_WRITE or seconds >= _SECONDS_OF_A_WRITE:
                writing, waiting = waiting, []
                add(writing, seconds=seconds)
                started_at = time.monotonic()
            on_line(count)
    finally:
        if waiting:
            add(waiting, seconds=time.monotonic() - started_at)


def _missing(items: Sequence[Item], folder: RunFolder, num_samples: int) -> list[Work]:
    """What is not written yet, in runs of samples that follow one another."""
    work = []
    for item in items:
        numbers = [number for number in range(num_samples) if (item.task_id, number) not in folder.samples]
        for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
            run_numbers = [number for _, number in run]
            work.append(Work(item=item, first_sample=run_numbers[0], num_samples=len(run_numbers)))
    return work


def _sandboxes(task: AnyTask, execution: Execution) -> list[Sandbox]:
    if not isinstance(task, ExecutedTask):
        return []
    ways = (False, True) if execution.strict else (False,)
    return [Sandbox(allow_unsandboxed=execution.unsandboxed, strict=strict, preload=("numpy",)) for strict in ways]


def _fields(
    task: AnyTask,
    settings: Settings,
    bundle: Bundle | None,
    given_from: str,
    execution: Execution,
    sandboxes: Sequence[Sandbox],
) -> dict[str, Any]:
    """All that may change a sample or a verdict, but for how a bundle is run."""
    fields: dict[str, Any] = {"data": task.data_hash()}
    if sandboxes:
        fields |= {"sandbox": sandboxes[0].kind, "strict": execution.strict}
    if bundle is None:
        return fields | {"samples": given_from}
    generation = {name: list(value) if isinstance(value, tuple) else value for name, value in _fixed(task).items()}
    return (
        fields
        | asdict(settings)
        | {"bundle": bundle.fingerprint, "generation": generation, "versions": package_versions("onnxruntime")}
    )


def _fixed(task: AnyTask) -> dict[str, Any]:
    return dict(task.generation_fields())


def _about(bundle: Bundle | None, runtime: str, sandboxes: Sequence[Sandbox]) -> dict[str, Any]:
    about: dict[str, Any] = {
        "versions": package_versions("codegen-edge", "onnxruntime", "numpy"),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "sandbox": sandboxes[0].kind if sandboxes else None,
    }
    if bundle is not None:
        about |= {
            "bundle": bundle.path.resolve().name,
            "precision": bundle.manifest.precision,
            "runtime": runtime,
            "bundle_bytes": bundle.size_bytes,
        }
    return about


@contextmanager
def _open_sampler(
    bundle: Bundle, task: AnyTask, settings: Settings, batch: int, options: dict[str, Any], cluster: Cluster | None
) -> Iterator[Sampler]:
    if cluster is None:
        with load_model(bundle.path, check="size", **options) as model:
            require_fingerprint(model.bundle, bundle.fingerprint)
            yield ModelSampler(model, settings, _fixed(task), batch=batch)
        return
    from codegen_edge.evaluation.runs.ray_sampling import RaySampler

    with RaySampler(
        cluster.address,
        str(bundle.path.resolve()),
        bundle.fingerprint,
        workers=cluster.workers,
        settings=settings,
        fields=_fixed(task),
        batch=batch,
        options=options,
    ) as sampler:
        yield sampler
