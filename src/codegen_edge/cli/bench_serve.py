"""`codegen-edge bench-serve`: how fast does a server answer under load?"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.table import Table

    from codegen_edge.server.load.client import CompletionClient
    from codegen_edge.server.load.driver import Load
    from codegen_edge.server.load.results import LoadResult

    Prompt = str | list[int]

# Lengths of the built-in prompts in characters, about 60 to 600 tokens: what an editor sends, short and long.
_PROMPT_LENGTHS = (200, 400, 800, 1400, 2000)
_LATENCIES = (
    ("first token", "time_to_first_token"),
    ("between chunks", "inter_token_latency"),
    ("per output token", "time_per_output_token"),
    ("end to end", "end_to_end_latency"),
    ("connecting", "connect"),
    ("sent late", "send_delay"),
)


@click.command("bench-serve")
@click.argument("url")
@click.option("--model", help="Model to ask for.  [default: the first one that the server lists]")
@click.option(
    "--prompt",
    "prompt_files",
    type=click.Path(path_type=Path),
    multiple=True,
    help="UTF-8 file to complete; may be given several times.  [default: beginnings of programs of many lengths]",
)
@click.option(
    "--prompt-tokens-file",
    "token_files",
    type=click.Path(path_type=Path),
    multiple=True,
    help="File with one JSON array of token ids per line; each line is a prompt.",
)
@click.option("--requests", "num_requests", type=click.IntRange(min=1), default=32, show_default=True)
@click.option("--concurrency", type=int, help="Closed loop: clients that wait for each answer.  [default: 1]")
@click.option("--rate", type=float, help="Open loop: requests per second, on schedule whatever the server does.")
@click.option("--poisson", is_flag=True, help="Open loop: random gaps between requests.")
@click.option("--seed", type=int, default=0, show_default=True, help="Open loop: of the random gaps.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--temperature", type=float, default=0.0, show_default=True)
@click.option(
    "--warm-up", type=click.IntRange(min=0), default=1, show_default=True, help="Requests before the measured ones."
)
@click.option("--timeout", type=float, default=120.0, show_default=True, help="Seconds after which a request is cut.")
@click.option("--retry", is_flag=True, help="Wait and send again where a 429 or 503 says Retry-After.")
@click.option("--api-key", envvar="CODEGEN_EDGE_API_KEY", help="Bearer token.  [env: CODEGEN_EDGE_API_KEY]")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write the result to this file.")
def bench_serve(
    url: str,
    model: str | None,
    prompt_files: tuple[Path, ...],
    token_files: tuple[Path, ...],
    num_requests: int,
    concurrency: int | None,
    rate: float | None,
    poisson: bool,
    seed: int,
    max_tokens: int,
    temperature: float,
    warm_up: int,
    timeout: float,
    retry: bool,
    api_key: str | None,
    json_file: Path | None,
) -> None:
    """Send completions to the OpenAI-compatible server at URL, and measure latency and throughput.

    codegen-edge bench-serve http://127.0.0.1:8000 --rate 2 --poisson --requests 100
    """
    from codegen_edge.bundle.storage import replace_file
    from codegen_edge.cli.console import stdout
    from codegen_edge.errors import BackendError, InvalidInputError
    from codegen_edge.server.load.client import CompletionClient
    from codegen_edge.server.load.connection import Endpoint

    load = _chosen_load(concurrency, rate, is_poisson=poisson, seed=seed)
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise InvalidInputError(f"{json_file.absolute().parent} is not a folder; make it first")
    prompts = _read_prompts(prompt_files, token_files) or _program_beginnings()
    client = CompletionClient(Endpoint.parse(url), api_key=api_key, timeout_s=timeout, is_retrying=retry)
    settings = {"max_tokens": max_tokens, "temperature": temperature}
    model, result = asyncio.run(_measure(client, model, prompts, settings, num_requests, warm_up, load))
    stdout.print(_latency_table(result, f"{model} at {client.endpoint}, {_in_words(load)}"))
    for line in _summary(result):
        stdout.print(line)
    if json_file is not None:
        report = {
            "url": str(client.endpoint),
            "model": model,
            "load": _load_dict(load),
            "settings": {
                **settings, "num_prompts": len(prompts), "warm_up": warm_up, "timeout_s": timeout, "retry": retry
            },
            "result": result.to_dict(),
        }  # fmt: skip
        replace_file(json_file, (json.dumps(report, indent=2) + "\n").encode())
    if not result.completed:
        raise BackendError(f"none of {result.requests} requests was completed by {client.endpoint}")


def _chosen_load(concurrency: int | None, rate: float | None, *, is_poisson: bool, seed: int) -> Load:
    from codegen_edge.errors import InvalidInputError
    from codegen_edge.server.load.driver import ClosedLoop, OpenLoop

    if rate is None:
        if is_poisson:
            raise InvalidInputError("random gaps need a rate", hint="give --rate with --poisson")
        return ClosedLoop(concurrency=1 if concurrency is None else concurrency)
    if concurrency is not None:
        raise InvalidInputError(
            "a load has a concurrency (closed loop) or a rate (open loop), not both",
            hint="leave out --concurrency or --rate",
        )
    return OpenLoop(rate=rate, is_poisson=is_poisson, seed=seed)


async def _measure(
    client: CompletionClient,
    model: str | None,
    prompts: list[Prompt],
    settings: dict[str, Any],
    num_requests: int,
    num_warm_up: int,
    load: Load,
) -> tuple[str, LoadResult]:
    """Find the model, warm up with prompts from the end of the list, measure with those from its beginning."""
    from codegen_edge.cli.console import stderr
    from codegen_edge.server.load.client import completion_body
    from codegen_edge.server.load.driver import drive, warm_up

    with stderr.status("asking for the models") as status:
        model = model or await client.first_model()
        bodies = [completion_body(model, prompt, **settings) for prompt in prompts]
        status.update("warming up")
        await warm_up(client, [bodies[-1 - index % len(bodies)] for index in range(num_warm_up)])
        measured = [bodies[index % len(bodies)] for index in range(num_requests)]
        result = await drive(
            client, measured, load, lambda done, total: status.update(f"{done} of {total} requests ended")
        )
    return model, result


def _read_prompts(prompt_files: tuple[Path, ...], token_files: tuple[Path, ...]) -> list[Prompt]:
    from codegen_edge.cli.texts import read_text
    from codegen_edge.errors import InvalidInputError

    prompts: list[Prompt] = [read_text(path) for path in prompt_files]
    for path in token_files:
        for number, line in enumerate(read_text(path).splitlines(), start=1):
            try:
                token_ids = json.loads(line)
            except ValueError:
                token_ids = None
            is_ids = isinstance(token_ids, list) and all(type(token) is int and token >= 0 for token in token_ids)
            if not (is_ids and token_ids):
                raise InvalidInputError(f"{path}, line {number}: wanted a JSON array of token ids, got {line[:60]!r}")
            prompts.append(token_ids)
    return prompts


def _program_beginnings() -> list[Prompt]:
    """Beginnings of the held-out programs, each in every length, programs and lengths in turn."""
    from codegen_edge.checkpoints.corpora import load_corpus

    texts = [file.text for file in load_corpus("held-out")]
    prompts: dict[str, None] = {}  # some programs are shorter than the longest beginning
    for turn in range(len(_PROMPT_LENGTHS)):
        for index, text in enumerate(texts):
            cut = text[: _PROMPT_LENGTHS[(index + turn) % len(_PROMPT_LENGTHS)]]
            prompts[cut[: cut.rfind("\n") + 1] or cut] = None  # an editor asks at the beginning of a line
    return list(prompts)


def _in_words(load: Load) -> str:
    from codegen_edge.server.load.driver import ClosedLoop

    if isinstance(load, ClosedLoop):
        return f"closed loop of {load.concurrency}"
    gaps = f"random gaps (seed {load.seed})" if load.is_poisson else "equal gaps"
    return f"open loop of {load.rate:g} requests per second, {gaps}"


def _load_dict(load: Load) -> dict[str, Any]:
    from codegen_edge.server.load.driver import ClosedLoop

    if isinstance(load, ClosedLoop):
        return {"kind": "closed loop", "concurrency": load.concurrency}
    return {"kind": "open loop", "rate": load.rate, "poisson": load.is_poisson, "seed": load.seed}


def _latency_table(result: LoadResult, title: str) -> Table:
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE)
    table.add_column("milliseconds", no_wrap=True)
    for column in ("count", "mean", "p50", "p90", "p95", "p99", "max"):
        table.add_column(column, justify="right", no_wrap=True)
    for label, name in _LATENCIES:
        found = getattr(result, name)
        if found is None:
            table.add_row(label, "0", *("–" for _ in range(6)))
            continue
        values = (found.mean_ms, found.p50_ms, found.p90_ms, found.p95_ms, found.p99_ms, found.max_ms)
        table.add_row(label, str(found.count), *(f"{value:,.1f}" for value in values))
    return table


def _summary(result: LoadResult) -> list[str]:
    """Throughput and errors, in lines."""
    lines = [
        f"{result.completed} of {result.requests} requests completed in {result.duration_s:.2f} s, "
        f"{result.requests_per_second:.2f} per second, at most {result.peak_concurrency} at a time",
        f"{result.output_tokens} output tokens (counted by {result.token_source}), "
        f"{result.output_tokens_per_second:.1f} per second",
    ]
    if result.retries:
        lines.append(f"{result.retries} times a request was sent again")
    for kind, count in result.errors.items():
        lines.append(f"{count} failed: {kind} ({result.error_messages[kind]})")
    return lines
