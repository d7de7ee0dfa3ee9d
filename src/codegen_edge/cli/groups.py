"""Groups of commands that are imported when they are asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import click

from codegen_edge.cli.ending import debug_option
from codegen_edge.registry import load_part


class LazyGroup(click.Group):
    """A group whose commands are imported at their use; each of them takes `--debug`, too.

    Args:
        homes: "module:attribute" of every command, in the order of `--help`.
    """

    def __init__(self, *args: Any, homes: Mapping[str, str], **options: Any) -> None:
        super().__init__(*args, **options)
        self._homes = dict(homes)
        self.params.append(debug_option(is_hidden=False))

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names."""
        return list(self._homes)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None where there is none of this name."""
        if cmd_name not in self._homes:
            return None
        command: click.Command = load_part(self._homes[cmd_name])
        if all("--debug" not in param.opts for param in command.params):
            command.params.append(debug_option(is_hidden=True))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The first sentence of every command, whole: click would cut it to a line."""
        rows = [(name, _first_sentence(self.get_command(ctx, name))) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _first_sentence(command: click.Command | None) -> str:
    text = " ".join(((command and command.help) or "").split("\n\n")[0].split())
    return re.split(r"(?<!\.)\. ", text)[0].removesuffix(".") + "."
