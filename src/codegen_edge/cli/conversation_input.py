"""What is typed into `chat`: edited lines with a history on a terminal, lines of a pipe otherwise."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import click

_MOST_LINES = 1000  # of the history
_PASTE_SECONDS = 0.02  # lines of a paste follow one another at once, typed ones do not


class Input(Protocol):
    """Where a conversation's lines come from."""

    @property
    def is_terminal(self) -> bool:
        """Whether somebody can be asked."""

    def read(self, prompt: str) -> str:
        """The next input, without its line end; raise EOFError at the end."""


class PipedInput:
    """Lines of a pipe or a file; each is an input."""

    is_terminal = False

    def read(self, prompt: str) -> str:
        """The next line."""
        click.echo(prompt, nl=False, err=True)
        return input()


class TerminalInput:
    """Lines of a terminal. What is pasted is one input, its line ends included.

    Args:
        readline: the module, whose editing `input` uses; None where Python has none.
    """

    is_terminal = True

    def __init__(self, readline: Any) -> None:
        self._marks_pastes = readline is not None and "libedit" not in (readline.__doc__ or "")
        if readline is not None and self._marks_pastes:
            readline.parse_and_bind("set enable-bracketed-paste on")

    def read(self, prompt: str) -> str:
        """The next line, or all lines of a paste."""
        text = input(prompt)
        while not self._marks_pastes and select.select([sys.stdin], [], [], _PASTE_SECONDS)[0]:
            text += "\n" + input()
        return text.rstrip("\n")


@contextmanager
def open_input(*, keeps_history: bool) -> Iterator[Input]:
    """The standard input; on a terminal the lines of earlier conversations can be had again."""
    if sys.stdin is None or not sys.stdin.isatty():
        yield PipedInput()
        return
    try:
        import readline
    except ImportError:  # Windows
        yield TerminalInput(None)
        return
    history = _history_file() if keeps_history else None
    if history is not None:
        with suppress(OSError):  # there is none yet
            readline.read_history_file(history)
    readline.set_history_length(_MOST_LINES)
    try:
        yield TerminalInput(readline)
    finally:
        if history is not None:
            with suppress(OSError):  # a home that cannot be written keeps no history
                history.parent.mkdir(parents=True, exist_ok=True)
                readline.write_history_file(history)
                history.chmod(0o600)  # prompts are nobody else's


def _history_file() -> Path:
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "codegen-edge" / "chat_history"
