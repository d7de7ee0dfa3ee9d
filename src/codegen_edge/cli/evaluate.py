"""`codegen-edge evaluate`: how good is a bundle?"""

from __future__ import annotations

import json
from pathlib import Path

import click

from codegen_edge.cli.choices import METRIC, RUNTIME


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--metric",
    "metrics",
    type=METRIC,
    multiple=True,
    default=("perplexity",),
    show_default=True,
    help="What to measure; may be given several times.",
)
@click.option(
    "--reference", type=click.Path(path_type=Path), help="The bundle to compare with, for metrics that need one."
)
@click.option(
    "--text",
    "texts",
    type=click.Path(path_type=Path),
    multiple=True,
    help="UTF-8 file to predict; may be given several times.  [default: the held-out programs that ship]",
)
@click.option("--max-tokens", type=click.IntRange(min=1), help="About how many tokens to predict.  [default: all]")
@click.option("--runtime", type=RUNTIME, default="cpu", show_default=True)
@click.option("--threads", type=int, help="CPU threads.  [default: all]")
@click.option("--exact-steps", is_flag=True, help="cpu: the same bits however a text is read.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate(
    bundle: Path,
    metrics: tuple[str, ...],
    reference: Path | None,
    texts: tuple[Path, ...],
    max_tokens: int | None,
    runtime: str,
    threads: int | None,
    exact_steps: bool,
    as_json: bool,
) -> None:
    """Measure BUNDLE on programs, each file by itself, through the KV cache that generation uses.

    codegen-edge evaluate my-int8-bundle --metric perplexity --metric damage --reference my-bundle
    """
    from codegen_edge import workflows
    from codegen_edge.cli.console import stderr, stdout
    from codegen_edge.cli.texts import read_text

    with stderr.status("measuring") as status:
        results = workflows.evaluate(
            bundle,
            metrics=metrics,
            reference=reference,
            texts=[read_text(path) for path in texts],
            max_tokens=max_tokens,
            runtime=runtime,
            threads=threads,
            exact_steps=exact_steps,
            on_stage=lambda stage, done, total: status.update(f"{stage}: {done} of {total} texts"),
        )
    if as_json:
        click.echo(json.dumps({name: result.to_dict() for name, result in results.items()}))
        return
    for name, result in results.items():
        stdout.print(result.summary if result.summary.startswith(name) else f"{name}: {result.summary}")
