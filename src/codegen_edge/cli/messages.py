"""Messages of the library in the words of the command line."""

from __future__ import annotations

import re

import click

_STAGE = re.compile(r"\.([^/\s]+)\.tmp-[0-9a-f]{16}(?:-old)?\b")  # where a folder is written before it has its name
_WORK = re.compile(r"/?\.codegen-edge-[a-z]+-[0-9a-f]{16}\b")  # where a command keeps what it needs meanwhile


def one_line(message: str) -> str:
    """The message in one line: without line ends, control characters and the names of hidden folders."""
    text = _WORK.sub("", _STAGE.sub(r"\1", " ".join(message.split())))
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def in_terms_of(command: click.Command | None, message: str) -> str:
    """The message with the options of `command` where it names their parameters.

    A name with an underscore is a parameter wherever it stands, every other one at the beginning and in a list of what
    a runtime has.
    """
    message, mark, listed = message.partition("; it has: ")
    for param in command.params if command is not None else ():
        if not isinstance(param, click.Option) or param.name is None:
            continue
        option, name = max(param.opts, key=len), re.escape(param.name)
        if "_" in param.name:
            message = re.sub(rf'(?<![\w-]){name}="([^"]*)"', rf"{option} \1", message)
            message = re.sub(rf"(?<![\w-]){name}=True\b", option, message)
            message = re.sub(rf"(?<![\w-]){name}(?![\w-])", option, message)
        else:
            message = re.sub(
                rf"^{name}(?=[ :,](?:must|is|holds|does|belongs|these|go|an?)\b|, | \d+ is)", option, message
            )
        listed = re.sub(rf"(?<![\w-]){name}(?![\w-])", option, listed)
    return f"{message}{mark}{listed}"
