"""`codegen-edge serve`: bundles over HTTP."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codegen_edge.cli.bundles import BUNDLE, chosen_runtime, report_runtime
from codegen_edge.cli.choices import RUNTIME
from codegen_edge.cli.paths import PATH
from codegen_edge.errors import InvalidInputError, RuntimeUnavailableError

if TYPE_CHECKING:
    from codegen_edge.generation.model import Model

_MOST_DIGITS = 6


@click.command()
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE…", type=BUNDLE)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address; others than local ones need a key.")
@click.option("--port", type=int, default=8080, show_default=True, help="0 lets the system choose.")
@click.option("--slots", default="auto", show_default=True, metavar="N|auto", help="Requests that decode together.")
@click.option("--queue", "max_queued", type=int, default=32, show_default=True, help="Requests that may wait.")
@click.option("--queue-tokens", "max_queued_tokens", type=int, default=65536, show_default=True)
@click.option("--queue-seconds", type=float, default=120, show_default=True, help="Longest wait for a slot.")
@click.option("--max-seconds", type=float, default=600, show_default=True, help="Longest generation.")
@click.option("--max-step-ms", type=float, default=100, show_default=True, help="Length of a step that reads prompts.")
@click.option("--prefix-cache-mib", type=int, default=512, show_default=True, help="Kept prompts; 0 keeps none.")
@click.option("--api-key-file", type=PATH, help="Keys, one per line; any of them is accepted.")
@click.option("--allow-host", "allowed_hosts", multiple=True, metavar="NAME", help="Further Host headers to answer.")
@click.option("--cors-origin", "cors_origins", multiple=True, metavar="ORIGIN", help="Whose pages may read answers.")
@click.option("--max-body-bytes", type=int, default=1 << 20, show_default=True)
@click.option("--drain-seconds", type=float, default=30, show_default=True, help="For running requests at shutdown.")
@click.option("--draft", type=click.Choice(["prompt-lookup"]), help="Draft for a request that is alone.")
@click.option("--runtime", type=RUNTIME, help="Which computes.  [default: cpu; static-cpu for target tensorrt]")
@click.option("--threads", type=int, help="CPU threads of each model.")
@click.option(
    "--exact-steps/--no-exact-steps",
    default=None,
    help="Answers do not depend on who else asks, bit for bit.  [default: exact with --runtime cpu]",
)
@click.option("--check", type=click.Choice(["full", "size"]), default="full", show_default=True)
@click.option("--chat-template", type=PATH, help="jinja2 template of `messages`.")
@click.option("--strict", "is_strict", is_flag=True, help="Refuse unknown fields instead of naming them in a header.")
@click.option("--log-prompts", "logs_prompts", is_flag=True, help="Write request bodies to the log.")
@click.option("--metrics-prefix", default="codegen_edge", show_default=True, help="vllm for dashboards made for it.")
def serve(bundles: tuple[Path, ...], **options: Any) -> None:
    """Serve bundles over HTTP: OpenAI's completions, a page at /, metrics.

    codegen-edge serve my-int8-bundle --port 8080
    """
    import asyncio
    import logging
    import sys

    from codegen_edge.cli.texts import read_text
    from codegen_edge.dependencies import install_command

    try:
        from codegen_edge.server.lines import LineWriter
        from codegen_edge.server.serving import Server, Sharing, with_key_file
    except ModuleNotFoundError as exc:
        raise RuntimeUnavailableError(f"the server needs {exc.name}: {install_command('cpu', 'serve')}") from exc

    # Of the server alone: errors that nobody expected, and with --log-prompts what was asked.
    writer = LineWriter(sys.stderr)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", stream=writer)
    logging.getLogger("codegen_edge.server").setLevel(logging.INFO if options["logs_prompts"] else logging.WARNING)
    _check_bundles(bundles)
    if options["api_key_file"] is not None:
        read_text(options["api_key_file"])  # says in a line what is wrong with it
    settings = with_key_file(_http_options(options), options["api_key_file"])
    sharing = Sharing(
        slots=_slots(options["slots"]),
        max_queued=options["max_queued"],
        max_queued_tokens=options["max_queued_tokens"],
        max_step_seconds=options["max_step_ms"] / 1000,
        prefix_bytes=options["prefix_cache_mib"] << 20,
        is_drafting=options["draft"] is not None,
    )
    with ExitStack() as stack:
        stack.callback(writer.close)
        models = [stack.enter_context(_open_model(bundle, options)) for bundle in bundles]
        server = Server(models, sharing, settings, tell=writer.line)
        asyncio.run(server.run(on_listening=lambda url: writer.line(f"listening on {url}")))


def _check_bundles(bundles: tuple[Path, ...]) -> None:
    """Raise InvalidInputError for a bundle that is given twice: a model of the server is named after its folder."""
    seen: set[str] = set()
    for bundle in bundles:
        folder = os.path.realpath(bundle)
        if folder in seen:
            raise InvalidInputError(f"{bundle} is given twice")
        seen.add(folder)


def _open_model(bundle: Path, options: dict[str, Any]) -> Model:
    """Load a bundle with its runtime; exactly where that is the default or was asked for."""
    from codegen_edge.generation.model import load_model

    runtime = chosen_runtime(bundle, options["runtime"])
    is_exact = options["exact_steps"] if options["exact_steps"] is not None else runtime == "cpu"
    try:
        model = load_model(
            bundle,
            runtime=runtime,
            check=options["check"],
            threads=options["threads"],
            exact_steps=is_exact or None,
        )
    except RuntimeUnavailableError as exc:
        hint = exc.hint or ("--no-exact-steps serves it without that promise" if is_exact else "")
        raise RuntimeUnavailableError(str(exc), hint=hint) from exc
    report_runtime(model, runtime, options["runtime"])
    return model


def _http_options(options: dict[str, Any]) -> dict[str, Any]:
    from codegen_edge.cli.texts import read_text

    template = options["chat_template"]
    names = ("host", "port", "cors_origins", "max_body_bytes", "drain_seconds", "queue_seconds", "max_seconds")
    return {name: options[name] for name in names} | {
        "allowed_hosts": options["allowed_hosts"],
        "is_strict": options["is_strict"],
        "logs_prompts": options["logs_prompts"],
        "metrics_prefix": options["metrics_prefix"],
        "chat_template": None if template is None else read_text(template),
    }


def _slots(given: str) -> int | None:
    if given == "auto":
        return None
    if not given.isascii() or not given.isdecimal() or not 1 <= len(given) <= _MOST_DIGITS or int(given) < 1:
        raise click.BadParameter(f"must be auto or a number from 1, got {given}", param_hint="--slots")
    return int(given)
