"""Choices of an option that are read from a registry: what is registered can be given, and is in the help."""

from __future__ import annotations

import re
from typing import Any

import click
from click.shell_completion import CompletionItem

from codegen_edge.bundle import contract
from codegen_edge.errors import InvalidInputError
from codegen_edge.registry import load_part

_MOST_DIGITS = 12


class RegistryChoice(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """One of the names of a registry, which is imported when the option is parsed or its help is shown.

    Args:
        home: "module:attribute" of the registry.
        also: names beside those of the registry, listed first.
    """

    name = "choice"

    def __init__(self, home: str, *, also: tuple[str, ...] = ()) -> None:
        self._home = home
        self._also = also

    @property
    def names(self) -> tuple[str, ...]:
        """All that may be given."""
        return self._also + tuple(load_part(self._home))

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """As click shows its own choices."""
        return f"[{'|'.join(self.names)}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name itself; raise InvalidInputError, which is one line, where it is none of them."""
        if value not in self.names:
            option = f"{param.opts[0]} " if param is not None else ""
            raise InvalidInputError(f"{option}must be one of {', '.join(self.names)}, got {value!r}")
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Its names that begin so."""
        return [CompletionItem(name) for name in self.names if name.startswith(incomplete)]


class TokenCount(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """A number of tokens, or "all", which is None."""

    name = "N|all"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """The number; raise InvalidInputError for what is none."""
        text = str(value)
        if text == "all":
            return None
        if not text.isascii() or not text.isdecimal() or len(text) > _MOST_DIGITS:
            raise InvalidInputError(f"--measure-tokens must be a number from 0, or all, got {text!r}")
        return int(text)


class DeviceName(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """A GPU's number for cuda and tensorrt, or the name of a device for openvino; the runtime says what it takes."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """The number where it is one, the name otherwise."""
        text = str(value)
        is_number = re.fullmatch(rf"-?[0-9]{{1,{_MOST_DIGITS}}}", text) is not None
        return int(text) if is_number else text


SCHEME = RegistryChoice("codegen_edge.quantization.registry:SCHEMES")
METHOD = RegistryChoice("codegen_edge.quantization.registry:METHODS")
PRECISION = RegistryChoice("codegen_edge.quantization.registry:SCHEMES", also=(contract.FULL_PRECISION,))
DEVICE = DeviceName()
RUNTIME = RegistryChoice("codegen_edge.runtimes.registry:RUNTIMES")
BUILT_RUNTIME = RegistryChoice("codegen_edge.runtimes.registry:BUILT_RUNTIMES")
METRIC = RegistryChoice("codegen_edge.evaluation.quality.metrics:METRICS")
TOKEN_COUNT = TokenCount()
