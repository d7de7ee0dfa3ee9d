"""How a command ends: in one line and an exit code that says whose matter it is."""

from __future__ import annotations

import errno
import signal
import sys
import traceback
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

import click

from codegen_edge.cli.messages import in_terms_of, one_line
from codegen_edge.cli.streams import escape_unprintable_characters
from codegen_edge.errors import CodegenEdgeError, code_of

WRONG_INPUT, ENVIRONMENT, UNEXPECTED = 2, 3, 70  # 70: EX_SOFTWARE of sysexits.h
INTERRUPTED, NO_READER = 130, 141  # 128 + SIGINT and 128 + SIGPIPE, as shells have them

# docs/command-line.md holds the same table.
EXIT_CODES = {
    0: "done; what was compared is equal",
    1: "a comparison found a difference: verify, export",
    WRONG_INPUT: "wrong input: an option, a file, a bundle, a checkpoint",
    ENVIRONMENT: "the machine: disk, memory, permissions, a missing library or device",
    UNEXPECTED: "a fault of codegen-edge; --debug shows where",
    INTERRUPTED: "interrupted (Ctrl-C); 143: ended by SIGTERM",
    NO_READER: "whoever read the output went away",
}
EXIT_CODES_HELP = "\b\nExit codes:\n" + "\n".join(f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES.items())

# What an OSError says of the path that was given. All others are the machine's.
_OF_THE_INPUT = {
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP),
    *(errno.EACCES, errno.EPERM),
}


@dataclass(slots=True)
class Running:
    """The command line that runs; every command writes itself in.

    Attributes:
        command: the innermost one so far.
        is_debug: whether `--debug` was given, anywhere.
    """

    command: click.Command | None = None
    is_debug: bool = False


def debug_option(*, is_hidden: bool) -> click.Option:
    """The option `--debug`, which is accepted behind the command as well."""
    return click.Option(
        ["--debug"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        hidden=is_hidden,
        callback=_enter,
        help="Show the traceback of an error; may stand behind the command, too.",
    )


def _enter(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    running = ctx.find_object(Running)
    if running is not None:
        running.command, running.is_debug = ctx.command, running.is_debug or bool(value)


def main() -> NoReturn:
    """Run the command line and exit with one of EXIT_CODES."""
    from codegen_edge.cli import cli

    escape_unprintable_characters()
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP, and means it
            signal.signal(number, _exit_on_signal)
    running = Running()
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = cli.main(prog_name="codegen-edge", standalone_mode=False, obj=running)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command is done: Ctrl-C changes its exit code no more
    except SystemExit as exc:
        if exc.code != 1:  # a signal's
            raise
        code = NO_READER  # click's own end after a broken pipe, and the only exit with 1 that is no result of ours
    # The last line of defence: whatever a library below us raises ends in one line as well.
    except BaseException as exc:  # noqa: BLE001
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        code = end_of(exc, running)
    sys.exit(code)


def end_of(exc: BaseException, running: Running) -> int:
    """Report what ended a command on stderr, in one line; its exit code."""
    if isinstance(exc, BrokenPipeError):
        # The reader of our output went away; nothing is left to say to it.
        sys.stdout = None  # so that the interpreter does not flush it at exit
        return NO_READER
    if isinstance(exc, click.Abort) or _is_interruption(exc):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    if type(exc).__name__ == "NoArgsIsHelpError":  # click >= 8.2: a group without a command shows its help
        assert isinstance(exc, click.UsageError)
        exc.show()
        return WRONG_INPUT
    if running.is_debug:
        traceback.print_exception(exc)
    message, code = _described(exc, running)
    click.echo(f"error: {one_line(message)}", err=True)
    return code


def _described(exc: BaseException, running: Running) -> tuple[str, int]:
    """What is said of it, and its exit code."""
    if isinstance(exc, CodegenEdgeError):
        message = f"{exc}: {exc.hint}" if exc.hint else str(exc)
        return f"{in_terms_of(running.command, message)} [{code_of(type(exc))}]", exc.exit_code
    if isinstance(exc, click.ClickException):
        message = exc.format_message().removesuffix(".")
        context = exc.ctx if isinstance(exc, click.UsageError) else None
        hint = f"; `{context.command_path} --help` shows what there is" if context is not None else ""
        return f"{message[:1].lower()}{message[1:]}{hint}", exc.exit_code
    if isinstance(exc, MemoryError):
        return "there is not enough memory for this", ENVIRONMENT
    if isinstance(exc, OSError) and exc.strerror is not None:
        named = f"{exc.filename}: {exc.strerror}" if exc.filename is not None else exc.strerror
        return named, WRONG_INPUT if exc.errno in _OF_THE_INPUT else ENVIRONMENT
    return _unexpected(exc, is_debug=running.is_debug), UNEXPECTED


def _unexpected(exc: BaseException, *, is_debug: bool) -> str:
    """An exception that is none of ours: a fault of codegen-edge, or a library that changed."""
    from codegen_edge.dependencies import EXPORT_PACKAGES, package_versions

    names = ("codegen-edge", "onnxruntime", *EXPORT_PACKAGES)
    versions = ", ".join(f"{name} {version}" for name, version in package_versions(*names).items())
    hint = "" if is_debug else "; `--debug` shows where"
    return f"unexpected {type(exc).__name__}: {exc} ({versions}){hint}"


def _is_interruption(exc: BaseException) -> bool:
    """Whether Ctrl-C is at the bottom of it: an import that it stops may fail with another exception."""
    if isinstance(exc, KeyboardInterrupt):
        return True
    below = exc.__cause__ or exc.__context__
    return isinstance(exc, ImportError) and below is not None and _is_interruption(below)


def _exit_on_signal(signum: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + signum)
