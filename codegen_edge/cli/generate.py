"""`codegen-edge generate`: text from a bundle."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from codegen_edge.model import Completion, GenerationStream
    from codegen_edge.runtimes.generation import CancelToken


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--prompt", help="The text to continue.")
@click.option("--prompt-file", type=click.Path(path_type=Path), help="Read the prompt from a file, - for stdin.")
@click.option("--max-new-tokens", type=int, default=128, show_default=True)
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0 takes the likeliest token.")
@click.option("--top-k", type=int, default=0, help="Sample from the K likeliest tokens only.")
@click.option("--top-p", type=float, default=1.0, help="Sample from the likeliest tokens that reach P only.")
@click.option("--seed", type=int, help="Make sampling repeatable.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; may be given several times.")
@click.option("--stream/--no-stream", default=True, show_default=True, help="Print pieces as they come.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with the text and its figures.")
@click.option("--runtime", default="cpu", show_default=True)
@click.option("--threads", type=int, help="CPU threads.  [default: all]")
@click.option(
    "--check",
    type=click.Choice(["full", "size"]),
    default="full",
    show_default=True,
    help="Compare the bundle's sha256 sums first, or its sizes only.",
)
def generate(
    bundle: Path,
    prompt: str | None,
    prompt_file: Path | None,
    stream: bool,
    as_json: bool,
    runtime: str,
    threads: int | None,
    check: Any,
    **params: Any,
) -> None:
    """Continue a prompt with BUNDLE; the new text goes to stdout.

    codegen-edge generate my-bundle --prompt "def hello_world():" --max-new-tokens 64
    """
    from codegen_edge.model import load_model
    from codegen_edge.runtimes.generation import CancelToken, GenerationParams

    text = _read_prompt(prompt, prompt_file)
    GenerationParams(**params)  # refuses bad options before the model is loaded
    with load_model(bundle, runtime=runtime, threads=threads, check=check) as model:
        cancel = CancelToken()
        is_streaming = stream and not as_json
        running = model.stream(text, cancel=cancel, **params)
        completion = _run_interruptibly(lambda: _consume(running, is_streaming=is_streaming), cancel)
    if as_json:
        click.echo(json.dumps(_fields(completion), ensure_ascii=False))
    elif not is_streaming:
        click.echo(completion.text)
    else:
        click.echo()


def _consume(running: GenerationStream, *, is_streaming: bool) -> Completion:
    for event in running:
        if is_streaming and event.text:
            click.echo(event.text, nl=False)
    return running.completions[0]


def _run_interruptibly(work: Callable[[], Completion], cancel: CancelToken) -> Completion:
    """Run `work` in a thread, so that Ctrl-C is seen at once: Python handles no signal while a kernel runs.

    While it runs Ctrl-C cancels and raises nothing: an exception in the middle of a library may be lost there.
    """
    from codegen_edge.errors import CancelledError

    outcome: list[Completion | BaseException] = []
    is_done = threading.Event()

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as exc:  # noqa: BLE001 - raised again in the main thread
            outcome.append(exc)
        is_done.set()

    previous = signal.signal(signal.SIGINT, lambda *_: cancel.cancel())
    try:
        threading.Thread(target=run, name="generate").start()
        is_done.wait()
    except BaseException:  # SIGTERM's exit
        cancel.cancel()
        is_done.wait()
        raise
    finally:
        signal.signal(signal.SIGINT, previous)
    result = outcome[0]
    if isinstance(result, CancelledError):
        raise KeyboardInterrupt from result
    if isinstance(result, BaseException):
        raise result
    return result


def _read_prompt(prompt: str | None, prompt_file: Path | None) -> str:
    from codegen_edge.errors import InvalidInputError

    if (prompt is None) == (prompt_file is None):
        raise InvalidInputError("give either --prompt TEXT or --prompt-file FILE (- for stdin)")
    if prompt is None:
        prompt = _read_file(prompt_file)
    if not prompt:
        raise InvalidInputError("the prompt is empty; give at least one character")
    return prompt


def _read_file(path: Path | None) -> str:
    from codegen_edge.errors import InvalidInputError

    try:
        content = sys.stdin.buffer.read() if str(path) == "-" else Path(str(path)).read_bytes()
        return content.decode("utf-8")
    except OSError as exc:
        raise InvalidInputError(f"{path} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise InvalidInputError(f"{path} is not UTF-8 at byte {exc.start}") from exc


def _fields(completion: Completion) -> dict[str, Any]:
    return {
        "text": completion.text,
        "token_ids": list(completion.token_ids),
        "prompt_tokens": completion.prompt_tokens,
        "finish_reason": completion.finish_reason,
        "prefill_ms": round(completion.prefill_ms, 3),
        "decode_ms": round(completion.decode_ms, 3),
        "decode_tokens_per_second": round(completion.decode_tokens_per_second, 3),
    }
