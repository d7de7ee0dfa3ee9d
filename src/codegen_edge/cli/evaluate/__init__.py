"""`codegen-edge evaluate …`: how well a bundle predicts text, and whether it still writes correct programs."""

from __future__ import annotations

from typing import Any

import click

from codegen_edge.registry import load_part

# In the order of `--help`; a command's module is imported when the command is run or its help is shown.
_HOMES = {
    "humaneval": "tasks",
    "mtpb": "tasks",
    "stdlib": "tasks",
    "perplexity": "metrics",
    "agreement": "metrics",
    "metrics": "metrics",
    "report": "report",
}


class _Group(click.Group):
    """The commands; `evaluate BUNDLE` is `evaluate metrics BUNDLE`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names."""
        return list(_HOMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None where there is none of this name."""
        if cmd_name not in _HOMES:
            return None
        command: click.Command = load_part(f"{__name__}.{_HOMES[cmd_name]}:{cmd_name}")
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[Any, Any, list[str]]:
        """A first word that names no command is the bundle of `metrics`, as this command was called before."""
        return super().resolve_command(ctx, args if args[0] in _HOMES else ["metrics", *args])


@click.group(cls=_Group)
def evaluate() -> None:
    """Measure a bundle: HumanEval, MTPB, completions of real lines, perplexity, agreement with another bundle.

    codegen-edge evaluate humaneval my-int8-bundle --data HumanEval.jsonl.gz --allow-execution --out results-int8
    """
