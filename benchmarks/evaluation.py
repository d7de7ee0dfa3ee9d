"""Tasks and metrics of the trained checkpoint in every precision, and the oracles of the harness itself.

    python -m benchmarks.evaluation --humaneval HumanEval.jsonl.gz --mtpb mtpb.jsonl [--part PART] [--ray local]

oracles: canonical solutions and empty completions of HumanEval, gold outputs of MTPB judged both ways, each with its
time and the sandbox that was in force.
precisions: perplexity, agreement, stdlib, a few problems of HumanEval and of MTPB, by precision, with intervals.
equality: greedy samples for batches of 1, 4 and 8, and, with --ray, for one worker and two.
caches: conversations of MTPB with kept KV caches against reading every turn anew, in interleaved rounds.

The data are downloads of their projects (openai/human-eval, salesforce/CodeGen); nothing of them is kept.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

import codegen_edge
from benchmarks.exactness import make
from benchmarks.harness import ROUNDS, comparison, interleave
from benchmarks.machine import describe_machine
from codegen_edge import workflows
from codegen_edge.bundle import Bundle
from codegen_edge.evaluation.report import write_report
from codegen_edge.evaluation.runs import ModelSampler, SampleLine, Settings, Work
from codegen_edge.evaluation.tasks.humaneval.problems import read_humaneval
from codegen_edge.evaluation.tasks.humaneval.task import HumanEvalTask
from codegen_edge.evaluation.tasks.mtpb.problems import read_mtpb
from codegen_edge.evaluation.tasks.mtpb.task import MtpbTask
from codegen_edge.evaluation.tasks.stdlib.task import StdlibTask
from codegen_edge.evaluation.tasks.task import AnyTask
from codegen_edge.ort_session import default_threads
from codegen_edge.workflows.task_evaluating import Cluster, Execution, evaluate_task

RESULT = Path(__file__).parent / "results" / "evaluation.json"
PRECISIONS = ("fp32", "int8", "int8-dynamic", "int4")
HUMANEVAL_PROBLEMS, MTPB_PROBLEMS = 20, 8
EQUALITY_PROBLEMS, EQUALITY_TOKENS = 20, 64
CONVERSATIONS = 6
EXECUTION = Execution(allowed=True)


def judged(task: AnyTask, out: Path, completions: Callable[[int], Sequence[str]]) -> dict[str, Any]:
    """A task's verdicts on completions that no model wrote, and the time that executing them took."""
    lines = [
        SampleLine(task_id=item.task_id, sample=0, completions=tuple(completions(place)))
        for place, item in enumerate(task.items())
    ]
    started_at = time.perf_counter()
    results = evaluate_task(task, out, given=lines, given_from=out.name, execution=EXECUTION)
    return {
        "passed": results["num_passed"],
        "of": results["num_samples"],
        "kinds": results["kinds"],
        "seconds": round(time.perf_counter() - started_at, 1),
        "sandbox": results["about"]["sandbox"],
    }


def measure_oracles(humaneval: Path, mtpb: Path, folder: Path) -> dict[str, Any]:
    """What must pass passes, what must not does not."""
    functions, conversations = HumanEvalTask(read_humaneval(humaneval)), read_mtpb(mtpb)
    golds = [item.gold for item in functions.items()]
    found = {
        "humaneval, canonical solutions": judged(functions, folder / "canonical", lambda place: golds[place]),
        "humaneval, empty completions": judged(functions, folder / "empty", lambda _: ("",)),
    }
    for name, compat in (("as the paper's script", True), ("repaired", False)):
        task = MtpbTask(conversations, compat=compat)
        values = [item.gold for item in task.items()]
        found[f"mtpb, gold outputs, {name}"] = judged(task, folder / f"gold-{compat}", lambda p, v=values: v[p])  # type: ignore[misc]
    return found


def measure_precisions(humaneval: Path, mtpb: Path, folder: Path, page: Path | None) -> dict[str, Any]:
    """Of the trained checkpoint; `page` gets the report."""
    bundles = make("codegen-5M-mono", folder / "bundles", names=PRECISIONS)
    tasks: dict[str, AnyTask] = {
        "stdlib": StdlibTask(),
        "humaneval": HumanEvalTask(read_humaneval(humaneval)[:HUMANEVAL_PROBLEMS]),
        "mtpb": MtpbTask(read_mtpb(mtpb)[:MTPB_PROBLEMS]),
    }
    found: dict[str, Any] = {}
    outs = []
    for name in PRECISIONS:
        metrics = ("perplexity",) if name == "fp32" else ("perplexity", "damage", "agreement")
        reference = None if name == "fp32" else bundles["fp32"]
        measured = workflows.evaluate(bundles[name], metrics=metrics, reference=reference)
        fields: dict[str, Any] = {metric: result.to_dict() for metric, result in measured.items()}
        for task_name, task in tasks.items():
            out = folder / f"{task_name}-{name}"
            outs.append(out)
            results = evaluate_task(task, out, bundle=bundles[name], execution=EXECUTION)
            kept = ("scores", "num_samples", "num_passed", "standard_error", "kinds", "tokens_per_second")
            fields[task_name] = {key: results[key] for key in kept}
        found[name] = fields
        click.echo(f"{name}: {json.dumps({key: fields[key] for key in tasks})}")
    if page is not None:
        write_report(outs, page)
    return found


def measure_equality(humaneval: Path, folder: Path, ray: str | None) -> dict[str, Any]:
    """Greedy completions that differ between ways to compute them."""
    bundles = make("codegen-5M-mono", folder / "bundles", method="round", names=("int8", "int4"))
    problems = read_humaneval(humaneval)[:EQUALITY_PROBLEMS]
    task = HumanEvalTask(problems, max_new_tokens=EQUALITY_TOKENS)
    ways: dict[str, dict[str, Any]] = {f"batch {batch}": {"batch": batch} for batch in (1, 4, 8)}
    if ray is not None:
        ways |= {f"{count} Ray workers": {"cluster": Cluster(address=ray, workers=count)} for count in (1, 2)}
    found = {}
    for name in ("fp32", "int8", "int4"):
        samples = {}
        for place, (way, options) in enumerate(ways.items()):
            out = folder / f"equal-{name}-{place}"
            evaluate_task(task, out, bundle=bundles[name], execution=EXECUTION, **options)
            samples[way] = (out / "samples.jsonl").read_bytes().splitlines()
        first = next(iter(samples.values()))
        found[name] = {
            way: sum(one != other for one, other in zip(first, lines, strict=True)) for way, lines in samples.items()
        }
        click.echo(f"{name}: {json.dumps(found[name])}")
    return {"completions": len(problems), "new_tokens": EQUALITY_TOKENS, "different": found}


def measure_caches(mtpb: Path, folder: Path) -> dict[str, Any]:
    """Seconds of conversations with kept caches and without, of the same texts."""
    bundles = make("codegen-5M-mono", folder / "bundles", method="round", names=("int8",))
    problems = [replace(problem, max_gen_length=32) for problem in read_mtpb(mtpb)[:CONVERSATIONS]]
    task = MtpbTask(problems)
    items = task.items()[::5]
    found = {}
    for name in ("fp32", "int8"):
        found[name] = _caches_of(bundles[name], task, [Work(item=item) for item in items])
        click.echo(f"{name}: {json.dumps(found[name])}")
    return {"conversations": len(items), "turns": sum(len(item.turns) for item in items), "bundles": found}


def _caches_of(bundle: Bundle, task: AnyTask, work: Sequence[Work]) -> dict[str, Any]:
    with codegen_edge.load_model(bundle.path, check="size", exact_steps=True) as model:

        def side(*, is_kept: bool) -> Callable[[], dict[str, float]]:
            sampler = ModelSampler(model, Settings(), task.generation_fields(), keep_caches=is_kept)

            def measure() -> dict[str, float]:
                started_at = time.perf_counter()
                list(sampler.sample(work))
                return {"seconds": time.perf_counter() - started_at}

            return measure

        rounds = interleave({"read anew": side(is_kept=False), "kept": side(is_kept=True)}, rounds=ROUNDS)
    return {
        "read_anew_seconds": rounds.spread("read anew", "seconds").to_dict(),
        "kept_seconds": rounds.spread("kept", "seconds").to_dict(),
        **comparison(rounds, "kept", "seconds"),
    }


@click.command()
@click.option("--humaneval", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--mtpb", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--part", "parts", multiple=True, default=("oracles", "precisions", "equality", "caches"))
@click.option("--ray", metavar="ADDRESS|local", help="Also compare Ray workers.")
@click.option("--page", type=click.Path(path_type=Path), help="Keep the report of the precisions here.")
def main(humaneval: Path, mtpb: Path, parts: tuple[str, ...], ray: str | None, page: Path | None) -> None:
    """Measure the parts, and put them beside those that the result has already."""
    result = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    result |= {"machine": describe_machine(), "threads": default_threads()}
    measures: dict[str, Callable[[Path], dict[str, Any]]] = {
        "oracles": lambda folder: measure_oracles(humaneval, mtpb, folder),
        "precisions": lambda folder: measure_precisions(humaneval, mtpb, folder, page),
        "equality": lambda folder: measure_equality(humaneval, folder, ray),
        "caches": lambda folder: measure_caches(mtpb, folder),
    }
    for part in parts:
        with tempfile.TemporaryDirectory(prefix="codegen-edge-evaluation-") as name:
            (Path(name) / "bundles").mkdir()
            result[part] = measures[part](Path(name))
        click.echo(f"{part}: {json.dumps(result[part])[:400]}")
        RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
