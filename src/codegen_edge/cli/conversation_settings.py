"""The settings of a conversation: the options of `chat` that say how tokens are chosen, shown and changed."""

from __future__ import annotations

from typing import Any

import click

from codegen_edge.cli.messages import in_terms_of
from codegen_edge.errors import InvalidInputError

_SWITCH = {"on": True, "yes": True, "true": True, "off": False, "no": False, "false": False}


class ConversationSettings:
    """Fields of GenerationParams under the names of the options.

    Args:
        command: `chat`, whose options they are.
        fields: as they were parsed.

    Raises:
        InvalidInputError: a value is out of range.
    """

    def __init__(self, command: click.Command, fields: dict[str, Any]) -> None:
        from codegen_edge.generation.params import GenerationParams

        GenerationParams(**fields)
        self._command = command
        self._fields = dict(fields)
        self._options = {
            max(param.opts, key=len).removeprefix("--"): param
            for param in command.params
            if isinstance(param, click.Option) and param.name in fields
        }

    @property
    def fields(self) -> dict[str, Any]:
        """For GenerationParams."""
        return dict(self._fields)

    def table(self) -> str:
        """A line for each setting."""
        width = max(map(len, self._options))
        return "\n".join(f"  {name:<{width}}  {self._shown(name)}" for name in self._options)

    def change(self, name: str, value: str | None = None) -> str:
        """Change a setting, to its default without a value; how it is now, in a line.

        Raises:
            InvalidInputError: there is no such setting, or a value of another type or out of range.
        """
        from codegen_edge.generation.params import GenerationParams

        option = self._options.get(name.removeprefix("--").replace("_", "-"))
        if option is None or option.name is None:
            raise InvalidInputError(f"there is no setting {name}; there are: {', '.join(self._options)}")
        fields = self._fields | {option.name: self._parsed(option, value)}
        GenerationParams(**fields)
        self._fields = fields
        shown = max(option.opts, key=len).removeprefix("--")
        return f"{shown} is {self._shown(shown)}"

    def in_its_terms(self, message: str) -> str:
        """A message of the library with the names of the options."""
        return in_terms_of(self._command, message)

    def _parsed(self, option: click.Option, value: str | None) -> Any:
        context = click.Context(self._command)
        if value is None:
            return option.get_default(context) if not option.multiple else ()
        if option.is_flag:
            if value.lower() not in _SWITCH:
                raise InvalidInputError(f"{option.name} is on or off, got {value}")
            return _SWITCH[value.lower()]
        try:
            parsed = option.type.convert(_unescaped(value), option, context)
        except click.ClickException as exc:
            raise InvalidInputError(exc.format_message()) from exc
        return (parsed,) if option.multiple else parsed

    def _shown(self, name: str) -> str:
        value = self._fields[str(self._options[name].name)]
        if isinstance(value, bool):
            return "on" if value else "off"
        if value is None or value == ():
            return "none"
        return ", ".join(map(repr, value)) if isinstance(value, list | tuple) else str(value)


def _unescaped(value: str) -> str:
    """With line ends and tabs where they were written as in Python: a line of the input holds none."""
    return value.replace("\\n", "\n").replace("\\t", "\t")
