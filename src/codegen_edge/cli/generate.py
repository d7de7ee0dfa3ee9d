"""`codegen-edge generate`: text from a bundle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codegen_edge.cli.generation_options import (
    generation_options,
    opened_draft,
    preset_option,
    take_runtime_options,
    with_preset,
)
from codegen_edge.cli.interruption import run_interruptibly

if TYPE_CHECKING:
    from codegen_edge.generation.model import Completion, GenerationStream


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--prompt", help="The text to continue.")
@click.option("--prompt-file", type=click.Path(path_type=Path), help="Read the prompt from a file, - for stdin.")
@preset_option
@generation_options
@click.option("--suffix", metavar="TEXT", help="What follows: the new text is cut where it meets it.")
@click.option("-n", "n", type=int, default=1, help="Samples, or beams, to give; only the first one is streamed.")
@click.option("--num-beams", type=int, default=1, help="Beam search for the likeliest text.")
@click.option("--length-penalty", type=float, default=1.0, help="Of beam search.")
@click.option("--top-logprobs", type=int, help="Log probabilities in --json: of the tokens, and of the K likeliest.")
@click.option("--stream/--no-stream", default=True, show_default=True, help="Print pieces as they come.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with the text and its figures.")
def generate(
    bundle: Path,
    prompt: str | None,
    prompt_file: Path | None,
    preset: str | None,
    suffix: str | None,
    stream: bool,
    as_json: bool,
    draft: str | None,
    runtime: str,
    check: Any,
    **params: Any,
) -> None:
    """Continue a prompt with BUNDLE; the new text goes to stdout.

    codegen-edge generate my-bundle --prompt "def hello_world():" --max-new-tokens 64
    """
    from codegen_edge.generation import CancelToken, GenerationParams
    from codegen_edge.generation.editing import suffix_stops
    from codegen_edge.generation.model import load_model

    text = _read_prompt(prompt, prompt_file)
    options = {"runtime": runtime, **take_runtime_options(params)}
    params = with_preset(preset, params)
    settings = GenerationParams(**params)  # refuses bad options before the model is loaded
    if suffix is not None:
        suffix_stops(suffix)
    is_streaming = stream and not as_json and settings.num_beams == 1 and settings.n == 1
    with (
        _memory_errors(),
        load_model(bundle, check=check, **options) as model,
        opened_draft(draft, check, options) as drafter,
    ):
        cancel = CancelToken()
        request = {"suffix": suffix, "draft": drafter, "cancel": cancel, **params}

        def work() -> Completion:
            return _consume(model.stream(text, **request)) if is_streaming else model.generate(text, **request)

        completion = run_interruptibly(work, cancel)
    if as_json:
        click.echo(json.dumps(_fields(completion), ensure_ascii=False))
    elif is_streaming:
        click.echo()
    else:
        for number, each in enumerate((completion, *completion.alternatives)):
            if number:
                click.echo("-" * 8)
            click.echo(each.text)


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


def _consume(running: GenerationStream) -> Completion:
    for event in running:
        if event.text:
            click.echo(event.text, nl=False)
    return running.completions[0]


def _read_prompt(prompt: str | None, prompt_file: Path | None) -> str:
    from codegen_edge.cli.texts import read_prompt
    from codegen_edge.errors import InvalidInputError

    if (prompt is None) == (prompt_file is None):
        raise InvalidInputError("give either --prompt TEXT or --prompt-file FILE (- for stdin)")
    if prompt_file is not None:
        prompt = read_prompt(prompt_file)
    if not prompt:
        raise InvalidInputError("the prompt is empty; give at least one character")
    return prompt


def _fields(completion: Completion) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "text": completion.text,
        "token_ids": list(completion.token_ids),
        "prompt_tokens": completion.prompt_tokens,
        "finish_reason": completion.finish_reason,
        "prefill_ms": round(completion.prefill_ms, 3),
        "decode_ms": round(completion.decode_ms, 3),
        "decode_tokens_per_second": round(completion.decode_tokens_per_second, 3),
    }
    if completion.logprobs is not None:
        fields["logprobs"] = completion.logprobs
        fields["top_logprobs"] = completion.top_logprobs
    if completion.drafted_tokens:
        fields["drafted_tokens"], fields["accepted_tokens"] = completion.drafted_tokens, completion.accepted_tokens
    if completion.score is not None:
        fields["score"] = completion.score
    if completion.alternatives:
        fields["alternatives"] = [_fields(each) for each in completion.alternatives]
    return fields
