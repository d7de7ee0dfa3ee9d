"""The options of `generate` and `chat` that say how to choose tokens and when to stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from codegen_edge.cli.choices import DEVICE, RUNTIME, RegistryChoice
from codegen_edge.errors import InvalidInputError

if TYPE_CHECKING:
    from codegen_edge.bundle import Check
    from codegen_edge.generation.model import Draft

_Command = TypeVar("_Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--max-new-tokens", type=int, default=128, show_default=True),
    click.option("--min-new-tokens", type=int, default=0, help="No end of text before."),
    click.option("--temperature", type=float, default=0.0, show_default=True, help="0 takes the likeliest token."),
    click.option("--top-k", type=int, default=0, help="Sample from the K likeliest tokens only."),
    click.option("--top-p", type=float, default=1.0, help="Sample from the likeliest tokens that reach P only."),
    click.option("--min-p", type=float, default=0.0, help="Sample from tokens P times as likely as the likeliest."),
    click.option("--typical-p", type=float, default=1.0, help="Sample from the tokens of typical surprise only."),
    click.option("--repetition-penalty", type=float, default=1.0, help="Above 1: what occurred is less likely."),
    click.option("--presence-penalty", type=float, default=0.0, help="Taken from logits of generated tokens."),
    click.option("--frequency-penalty", type=float, default=0.0, help="The same, for every time."),
    click.option("--no-repeat-ngram-size", type=int, default=0, help="No run of N tokens twice."),
    click.option("--seed", type=int, help="Make sampling repeatable."),
    click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; may be given several times."),
    click.option(
        "--truncate-before", multiple=True, metavar="REGEX", help="Cut the new text before a match; several times."
    ),
    click.option("--single-block/--no-single-block", default=False, help="End before a second top-level print or def."),
    click.option("--max-seconds", type=float, help="End with what is there after this time."),
    click.option(
        "--prompt-overflow",
        type=click.Choice(["refuse", "cut-left"]),
        default="refuse",
        show_default=True,
        help="What becomes of a prompt that is too long.",
    ),
    click.option(
        "--export",
        "is_exporting",
        is_flag=True,
        is_eager=True,
        help="BUNDLE is a hub id: export it into the cache folder, once, and take that.",
    ),
    click.option("--draft", metavar="prompt-lookup|BUNDLE", help="Draft tokens to save steps; changes none of them."),
    click.option("--runtime", type=RUNTIME, help="Which computes.  [default: cpu; static-cpu for target tensorrt]"),
    click.option("--threads", type=int, help="CPU threads.  [default: all]"),
    click.option("--exact-steps", is_flag=True, default=None, help="cpu: the same bits however a text is read."),
    click.option(
        "--device",
        "device_id",
        type=DEVICE,
        help="cuda and tensorrt: which GPU, by its number; openvino: CPU, GPU or NPU.  [default: 0; CPU]",
    ),
    click.option("--memory-limit", "memory_limit_mib", type=int, metavar="MIB", help="cuda: of GPU memory."),
    click.option("--cuda-graph", is_flag=True, default=None, help="cuda: replay decode steps as one launch."),
    click.option("--allow-cpu-nodes", is_flag=True, default=None, help="cuda: nodes that it lacks may run on the CPU."),
    click.option(
        "--check",
        type=click.Choice(["full", "size"]),
        default="full",
        show_default=True,
        help="Compare the bundle's sha256 sums first, or its sizes only.",
    ),
)


def generation_options(command: _Command) -> _Command:
    """Add the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


preset_option = click.option(
    "--preset",
    type=RegistryChoice("codegen_edge.generation.presets:PRESETS"),
    help="A published way to sample and to cut; options that are given go before it.",
)


def with_preset(preset: str | None, params: dict[str, Any]) -> dict[str, Any]:
    """The parameters of the generation: those that the user gave, a preset's, the options' defaults, in this order."""
    if preset is None:
        return params
    from codegen_edge.generation.presets import preset_fields

    context = click.get_current_context()
    explicit = {
        name: value
        for name, value in params.items()
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
    return params | preset_fields(preset, explicit)


_RUNTIME_OPTIONS = ("threads", "exact_steps", "device_id", "memory_limit_mib", "cuda_graph", "allow_cpu_nodes")


def take_runtime_options(params: dict[str, Any]) -> dict[str, Any]:
    """Take the options of the runtime out of a command's parameters; what is left are those of the generation."""
    return {name: params.pop(name) for name in _RUNTIME_OPTIONS}


def check_seed(params: dict[str, Any]) -> None:
    """Raise InvalidInputError for a seed that was given where nothing is random."""
    context = click.get_current_context()
    is_given = context.get_parameter_source("seed") is ParameterSource.COMMANDLINE
    if is_given and params["temperature"] == 0:
        raise InvalidInputError("--seed does nothing at temperature 0, which samples nothing; give --temperature, too")


@contextmanager
def opened_draft(draft: str | None, check: Check, options: dict[str, Any]) -> Iterator[Draft | None]:
    """What `--draft` names: nothing, "prompt-lookup", or a bundle, which is loaded and closed again."""
    if draft is None:
        yield None
    elif draft == "prompt-lookup":
        yield "prompt-lookup"
    elif not draft:
        raise InvalidInputError("--draft is empty; give prompt-lookup, or a bundle")
    else:
        from codegen_edge.generation.model import load_model

        with load_model(Path(draft), check=check, **options) as model:
            yield model
