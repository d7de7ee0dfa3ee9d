"""The command line: `codegen-edge export | verify | generate | …`. One command a file."""

from __future__ import annotations

import signal
import sys
import traceback
from types import FrameType
from typing import NoReturn

import click

from codegen_edge.errors import CodegenEdgeError
from codegen_edge.registry import load_part

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


# In the order of `--help`; a command's module is imported when the command is run or its help is shown.
COMMANDS = (
    *("export", "verify", "quantize", "build", "generate", "chat", "serve"),
    *("evaluate", "bench", "bench-serve", "inspect", "doctor", "demo"),
)


class CommandGroup(click.Group):
    """The commands, one in a module of its own name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None where there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = load_part("{0}.{1}:{1}".format(__name__, cmd_name.replace("-", "_")))
        return command


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="codegen-edge")
def cli(debug: bool) -> None:
    """CodeGen on the edge: export to ONNX, prove the export equal, generate.

    Start with: codegen-edge export Salesforce/codegen-350M-mono my-bundle
    """


def main() -> NoReturn:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong input, 130 interrupted."""
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP, and means it
            signal.signal(number, _exit_on_signal)
    is_debug = "--debug" in sys.argv[1:2]
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as exc:
        exc.show()
        code = exc.exit_code
    except CodegenEdgeError as exc:
        code = _report(exc, exc.exit_code, is_debug=is_debug)
    except BrokenPipeError:
        # The reader of our output went away; nothing is left to say to it.
        sys.stdout = None  # so that the interpreter does not flush it at exit
        code = 1
    except OSError as exc:
        code = _report(exc, 2, is_debug=is_debug)  # a path that cannot be read, is too long, …
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        code = _INTERRUPTED
    # The last line of defence: whatever a library below us raises ends in one line as well.
    except Exception as exc:  # noqa: BLE001
        code = _report_unexpected(exc, is_debug=is_debug)
    sys.exit(code)


def _report(exc: Exception, code: int, *, is_debug: bool) -> int:
    if is_debug:
        traceback.print_exc()
    hint = getattr(exc, "hint", "")
    click.echo(f"error: {' '.join(str(exc).split())}{f': {hint}' if hint else ''}", err=True)
    return code


def _report_unexpected(exc: Exception, *, is_debug: bool) -> int:
    """Report an exception that is none of ours: a fault of codegen-edge, or a library that changed."""
    from codegen_edge.dependencies import EXPORT_PACKAGES, package_versions

    names = ("codegen-edge", "onnxruntime", *EXPORT_PACKAGES)
    versions = ", ".join(f"{name} {version}" for name, version in package_versions(*names).items())
    if is_debug:
        traceback.print_exc()
    hint = "" if is_debug else "; `codegen-edge --debug …` shows where"
    click.echo(f"error: unexpected {type(exc).__name__}: {' '.join(str(exc).split())} ({versions}){hint}", err=True)
    return 1


def _exit_on_signal(signum: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + signum)
