"""`codegen-edge evaluate perplexity | agreement | metrics`: what a bundle's probabilities say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from codegen_edge.cli.bundles import BUNDLE
from codegen_edge.cli.choices import METRIC, RUNTIME
from codegen_edge.cli.output import print_json
from codegen_edge.cli.paths import PATH

_Command = Callable[..., None]

_TEXT_OPTIONS = (
    click.option(
        "--text",
        "texts",
        type=PATH,
        multiple=True,
        help="UTF-8 file to predict; may be given several times.  [default: the held-out programs that ship]",
    ),
    click.option("--max-tokens", type=click.IntRange(min=1), help="About how many tokens to predict.  [default: all]"),
    click.option("--runtime", type=RUNTIME, default="cpu", show_default=True),
    click.option("--threads", type=int, help="CPU threads.  [default: all]"),
    click.option("--exact-steps", is_flag=True, help="cpu: the same bits however a text is read."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
)


def _text_options(command: _Command) -> _Command:
    for option in reversed(_TEXT_OPTIONS):
        command = option(command)
    return command


def _reference(*, required: bool, why: str) -> Callable[[_Command], _Command]:
    return click.option("--reference", type=BUNDLE, required=required, help=why)


_BUNDLE = click.argument("bundle", type=BUNDLE)


@click.command()
@_BUNDLE
@_reference(required=False, why="Another bundle: how much more BUNDLE's perplexity is, paired text by text.")
@_text_options
def perplexity(bundle: Path, reference: Path | None, **options: Any) -> None:
    """Predict programs with BUNDLE: perplexity and bits per byte, with 95% intervals over the programs.

    codegen-edge evaluate perplexity my-int8-bundle --reference my-bundle
    """
    _measure(bundle, ("perplexity",) if reference is None else ("perplexity", "damage"), reference, **options)


@click.command()
@_BUNDLE
@_reference(required=True, why="The bundle to compare with, usually the one before quantization.")
@_text_options
def agreement(bundle: Path, reference: Path, **options: Any) -> None:
    """Compare BUNDLE with a reference on programs: likeliest tokens, divergence, and the first token that differs.

    codegen-edge evaluate agreement my-int8-bundle --reference my-bundle
    """
    _measure(bundle, ("damage", "agreement"), reference, **options)


@click.command()
@_BUNDLE
@click.option(
    "--metric",
    "metrics",
    type=METRIC,
    multiple=True,
    default=("perplexity",),
    show_default=True,
    help="What to measure; may be given several times.",
)
@_reference(required=False, why="The bundle to compare with, for metrics that need one.")
@_text_options
def metrics(bundle: Path, metrics: tuple[str, ...], reference: Path | None, **options: Any) -> None:
    """Measure BUNDLE with any of the registered metrics, each text by itself.

    codegen-edge evaluate metrics my-int8-bundle --metric perplexity --metric damage --reference my-bundle
    """
    _measure(bundle, metrics, reference, **options)


def _measure(
    bundle: Path,
    names: tuple[str, ...],
    reference: Path | None,
    *,
    texts: tuple[Path, ...],
    as_json: bool,
    **options: Any,
) -> None:
    from codegen_edge import workflows
    from codegen_edge.cli.console import stderr, stdout
    from codegen_edge.cli.texts import read_text

    with stderr.status("measuring") as status:
        results = workflows.evaluate(
            bundle,
            metrics=names,
            reference=reference,
            texts=[read_text(path) for path in texts],
            on_stage=lambda stage, done, total: status.update(f"{stage}: {done} of {total} texts"),
            **options,
        )
    if as_json:
        print_json({name: result.to_dict() for name, result in results.items()})
        return
    for name, result in results.items():
        stdout.print(result.summary if result.summary.startswith(name) else f"{name}: {result.summary}")
