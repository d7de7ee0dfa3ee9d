"""The command line: `codegen-edge export | verify | generate | …`. One command a file."""

from __future__ import annotations

import click

from codegen_edge.cli.ending import EXIT_CODES_HELP, main
from codegen_edge.cli.groups import LazyGroup
from codegen_edge.cli.versions import print_versions

__all__ = ["COMMANDS", "cli", "main"]

# In the order of `--help`; a command's module is imported when the command is run or its help is shown.
COMMANDS = (
    *("export", "verify", "quantize", "build", "generate", "chat", "serve"),
    *("evaluate", "bench", "bench-serve", "list", "inspect", "push", "doctor", "demo"),
)
_HOMES = {name: "{0}.{1}:{1}".format(__name__, name.replace("-", "_")) for name in COMMANDS}
_HOMES["list"] = f"{__name__}.listing:list_command"  # `list` itself is Python's


@click.group(
    cls=LazyGroup,
    homes=_HOMES,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_CODES_HELP,
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=print_versions, help="Show versions."
)
def cli() -> None:
    """CodeGen on the edge: export to ONNX, prove the export equal, generate.

    Start with: codegen-edge export Salesforce/codegen-350M-mono my-bundle
    """
