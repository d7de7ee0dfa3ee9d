"""`codegen-edge generate`: text from a bundle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from codegen_edge.cli.bundles import BUNDLE, chosen_runtime, exported, report_runtime
from codegen_edge.cli.completions import completion_fields, event_fields, speed_line
from codegen_edge.cli.generation_options import (
    check_seed,
    generation_options,
    opened_draft,
    preset_option,
    take_runtime_options,
    with_preset,
)
from codegen_edge.cli.grammar_options import grammar_options, take_grammar
from codegen_edge.cli.interruption import run_interruptibly
from codegen_edge.cli.output import print_json
from codegen_edge.cli.paths import PATH
from codegen_edge.errors import InvalidInputError

if TYPE_CHECKING:
    from codegen_edge.generation import GenerationParams
    from codegen_edge.generation.model import Completion, GenerationStream


@click.command()
@click.argument("bundle", type=BUNDLE)
@click.option("--prompt", help="The text to continue.")
@click.option("--prompt-file", type=PATH, help="Read the prompt from a file, - for stdin.")
@click.option("--prompt-ids", metavar="IDS", help="The prompt as token ids, with commas between them.")
@click.option("--echo", "is_echoing", is_flag=True, help="Print the prompt in front of the text; a field in --json.")
@preset_option
@generation_options
@grammar_options
@click.option("--suffix", metavar="TEXT", help="What follows: the new text is cut where it meets it.")
@click.option("-n", "n", type=int, default=1, help="Samples, or beams, to give.")
@click.option("--num-beams", type=int, default=1, help="Beam search for the likeliest text.")
@click.option("--length-penalty", type=float, default=1.0, help="Of beam search.")
@click.option("--top-logprobs", type=int, help="Log probabilities in --json: of the tokens, and of the K likeliest.")
@click.option(
    "--stream/--no-stream", default=True, help="Print pieces as they come; with --json a line for each.  [default: on]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with the text and its figures.")
@click.option("--quiet", "-q", "is_quiet", is_flag=True, help="Do not report tokens per second on stderr.")
def generate(
    bundle: Path,
    prompt: str | None,
    prompt_file: Path | None,
    prompt_ids: str | None,
    preset: str | None,
    suffix: str | None,
    stream: bool,
    as_json: bool,
    is_echoing: bool,
    is_quiet: bool,
    is_exporting: bool,
    draft: str | None,
    runtime: str | None,
    check: Any,
    **params: Any,
) -> None:
    """Continue a prompt with BUNDLE; the new text goes to stdout.

    codegen-edge generate my-bundle --prompt "def hello_world():" --max-new-tokens 64
    """
    from codegen_edge.cli.prompts import given_prompt
    from codegen_edge.generation import CancelToken, GenerationParams
    from codegen_edge.generation.constraints import compile_grammar
    from codegen_edge.generation.editing import suffix_stops
    from codegen_edge.generation.model import load_model

    start = given_prompt(prompt, prompt_file, prompt_ids)
    options = take_runtime_options(params)
    grammar = take_grammar(params)
    params = with_preset(preset, params)
    settings = GenerationParams(**params)  # refuses bad options before the model is loaded
    is_streaming = _is_streaming(settings, stream, as_json)
    check_seed(params)
    if params["top_logprobs"] is not None and not as_json:
        raise InvalidInputError("--top-logprobs is printed in JSON only; give --json with it")
    if suffix is not None:
        suffix_stops(suffix)
    folder = exported(str(bundle)) if is_exporting else bundle
    options["runtime"] = chosen_runtime(folder, runtime)
    with (
        _memory_errors(),
        load_model(folder, check=check, **options) as model,
        opened_draft(draft, check, options) as drafter,
    ):
        report_runtime(model, options["runtime"], runtime)
        cancel = CancelToken()
        constraint = None if grammar is None else compile_grammar(grammar, model.tokenizer)
        request = {"suffix": suffix, "draft": drafter, "cancel": cancel, "constraint": constraint, **params}
        echoed = "" if not is_echoing else start if isinstance(start, str) else model.tokenizer.decode(start)

        def work() -> Completion:
            if not is_streaming:
                return model.generate(start, **request)
            return _consume(model.stream(start, **request), echoed, as_json=as_json)

        completion = run_interruptibly(work, cancel)
    _show(completion, echoed, as_json=as_json, is_streaming=is_streaming)
    if not as_json and not is_quiet:
        click.echo(speed_line(completion), err=True)


def _is_streaming(settings: GenerationParams, wanted: bool, as_json: bool) -> bool:
    """Whether pieces are printed as they come; raise InvalidInputError where `--stream` was given and cannot be."""
    source = click.get_current_context().get_parameter_source("stream")
    is_asked = wanted and source is ParameterSource.COMMANDLINE
    if settings.num_beams > 1 and is_asked:
        raise InvalidInputError("--stream does not go with beam search, which has no text before its end")
    if as_json:
        return is_asked
    if settings.n > 1 and is_asked:
        raise InvalidInputError("--stream prints one text; with several samples give --json, too")
    return wanted and settings.num_beams == 1 and settings.n == 1


@contextmanager
def _memory_errors() -> Iterator[None]:
    from codegen_edge.errors import BackendError

    try:
        yield
    except MemoryError as exc:
        raise BackendError(
            "there is not enough memory for this: shorten the prompt, lower max_new_tokens, n or num_beams, or take a "
            "smaller or quantized model"
        ) from exc


def _consume(running: GenerationStream, echoed: str, *, as_json: bool) -> Completion:
    if echoed and not as_json:
        click.echo(echoed, nl=False)
    for event in running:
        if as_json:
            print_json(event_fields(event))
        elif event.text:
            click.echo(event.text, nl=False)
    return running.completions[0]


def _show(completion: Completion, echoed: str, *, as_json: bool, is_streaming: bool) -> None:
    if as_json:
        kind = {"event": "completion"} if is_streaming else {}
        print_json(kind | ({"prompt": echoed} if echoed else {}) | completion_fields(completion))
    elif is_streaming:
        click.echo()
    else:
        for number, each in enumerate((completion, *completion.alternatives)):
            if number:
                click.echo("-" * 8)
            click.echo(f"{echoed}{each.text}")
