"""The command line: `codegen-edge export | verify | generate | …`. One command a file."""

from __future__ import annotations

import click

from codegen_edge.cli.ending import EXIT_CODES_HELP, main
from codegen_edge.cli.groups import LazyGroup

__all__ = ["COMMANDS", "cli", "main"]

# In the order of `--help`; a command's module is imported when the command is run or its help is shown.
COMMANDS = (
    *("export", "verify", "quantize", "build", "generate", "chat", "serve"),
    *("evaluate", "bench", "bench-serve", "inspect", "doctor", "demo"),
)
_HOMES = {name: "{0}.{1}:{1}".format(__name__, name.replace("-", "_")) for name in COMMANDS}


@click.group(
    cls=LazyGroup,
    homes=_HOMES,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_CODES_HELP,
)
@click.version_option(package_name="codegen-edge")
def cli() -> None:
    """CodeGen on the edge: export to ONNX, prove the export equal, generate.

    Start with: codegen-edge export Salesforce/codegen-350M-mono my-bundle
    """
