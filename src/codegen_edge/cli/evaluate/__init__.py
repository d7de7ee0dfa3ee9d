"""`codegen-edge evaluate …`: how well a bundle predicts text, and whether it still writes correct programs."""

from __future__ import annotations

from typing import Any

import click

from codegen_edge.cli.groups import LazyGroup

# In the order of `--help`; a command's module is imported when the command is run or its help is shown.
_MODULES = {
    "humaneval": "tasks",
    "mtpb": "tasks",
    "stdlib": "tasks",
    "perplexity": "metrics",
    "agreement": "metrics",
    "metrics": "metrics",
    "report": "report",
}
_HOMES = {name: f"{__name__}.{module}:{name}" for name, module in _MODULES.items()}


class _Group(LazyGroup):
    """The commands; `evaluate BUNDLE` is `evaluate metrics BUNDLE`."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[Any, Any, list[str]]:
        """A first word that names no command is the bundle of `metrics`, as this command was called before."""
        return super().resolve_command(ctx, args if args[0] in _HOMES else ["metrics", *args])


@click.group(cls=_Group, homes=_HOMES)
def evaluate() -> None:
    """Measure a bundle: HumanEval, MTPB, completions of real lines, perplexity, agreement with another bundle.

    codegen-edge evaluate humaneval my-int8-bundle --data HumanEval.jsonl.gz --allow-execution --out results-int8
    """
