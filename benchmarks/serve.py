"""What the server costs and keeps, on the 350M shape in int8: python -m benchmarks.serve [BUNDLE].

A server process and this process as its clients share the machine, as they do where an editor asks a server beside it.
Ratios are of the same round. Prompts are random ids, so that nothing is found in the prefix cache unless it is meant.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np

import codegen_edge
from benchmarks.harness import Spread
from benchmarks.machine import describe_machine
from benchmarks.random_checkpoint import TEXTS
from codegen_edge.exporter.random_checkpoint import SHAPES, write_random_checkpoint
from codegen_edge.server.load.client import CompletionClient, Reply, completion_body
from codegen_edge.server.load.connection import Endpoint
from codegen_edge.server.load.results import nearest_rank

RESULT = Path(__file__).parent / "results" / "serve.json"
ROUNDS = 3
SLOTS, QUEUE = 8, 32
PROMPT, LONG_PROMPT, NEW = 64, 1024, 64
VOCABULARY = 50_000
RANDOM = np.random.default_rng(0)


def random_prompt(length: int) -> list[int]:
    """Ids that no earlier prompt begins with."""
    return [int(each) for each in RANDOM.integers(0, VOCABULARY, length)]


class Client:
    """Asks the server.

    Args:
        url: of the server.
        model: that is served.
    """

    def __init__(self, url: str, model: str) -> None:
        self.url, self.model = url, model
        self._http: httpx.AsyncClient | None = None
        self._client = CompletionClient(Endpoint.parse(url), timeout_s=300)

    async def ask(self, prompt: Sequence[int], new: int) -> Reply:
        """A streamed greedy completion."""
        body = completion_body(self.model, list(prompt), max_tokens=new, temperature=0)
        return await self._client.complete(body)

    async def together(self, count: int, *, length: int = PROMPT, new: int = NEW) -> list[Reply]:
        """So many at the same time."""
        return list(await asyncio.gather(*(self.ask(random_prompt(length), new) for _ in range(count))))

    async def running(self) -> tuple[int, int]:
        """Requests that have slots, and those that wait."""
        # One client for all: making one takes longer than what is measured.
        self._http = self._http or httpx.AsyncClient()
        text = (await self._http.get(f"{self.url}/metrics")).text
        return tuple(
            int(float(re.findall(rf"num_requests_{name}{{.*}} (\S+)", text)[0])) for name in ("running", "waiting")
        )  # type: ignore[return-value]


@contextmanager
def start_server(bundle: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server process: its address, and itself."""
    code = "import sys; from codegen_edge.cli import main; sys.argv[0] = 'codegen-edge'; main()"
    command = [sys.executable, "-c", code, "serve", str(bundle), "--port", "0", "--check", "size", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "listening on" in line:
                yield line.split()[-1], process
                break
        else:
            raise click.ClickException("the server did not start")
    finally:
        process.terminate()
        process.wait()


def tokens_per_second(replies: Sequence[Reply]) -> float:
    """Of all together."""
    failed = [reply.failure for reply in replies if reply.failure is not None]
    assert not failed, failed
    seconds = max(reply.ended_s for reply in replies) - min(reply.sent_s for reply in replies)
    return sum(reply.num_tokens for reply in replies) / seconds


def gaps_ms(reply: Reply, start: float = 0.0, end: float = float("inf")) -> list[float]:
    """Between pieces of text that came in a time."""
    moments = [each for each in reply.text_s if start <= each <= end]
    return [1e3 * (later - earlier) for earlier, later in pairwise(moments)]


async def measure_throughput(client: Client, model: Any) -> dict[str, Any]:
    """In process, one client, eight, and 32 on eight slots, in interleaved rounds."""
    rates: dict[str, list[float]] = {}
    first_ms: dict[str, list[float]] = {"in process": [], "1 client": []}
    for _ in range(ROUNDS):
        prompt = random_prompt(PROMPT)
        started_at = time.perf_counter()
        completion = await asyncio.to_thread(_generate, model, prompt)
        rates.setdefault("in process", []).append(len(completion.token_ids) / (time.perf_counter() - started_at))
        first_ms["in process"].append(completion.prefill_ms)
        for count in (1, 8, 32):
            replies = await client.together(count)
            rates.setdefault(f"{count} client{'s' if count > 1 else ''}", []).append(tokens_per_second(replies))
            if count == 1:
                first_ms["1 client"].append(1e3 * (replies[0].text_s[0] - replies[0].sent_s))

    def ratio(over: str, under: str) -> dict[str, float]:
        return Spread.of([one / other for one, other in zip(rates[over], rates[under], strict=True)]).to_dict()

    return {
        "tokens_per_second": {name: Spread.of(values).to_dict() for name, values in rates.items()},
        "one_client_against_in_process": ratio("1 client", "in process"),
        "eight_against_one": ratio("8 clients", "1 client"),
        "thirty_two_against_eight": ratio("32 clients", "8 clients"),
        "time_to_first_token_ms": {name: Spread.of(values).to_dict() for name, values in first_ms.items()},
    }


def _generate(model: Any, prompt: list[int]) -> Any:
    session = model.session()
    session._ids = list(prompt)  # ids, not text: the same as the clients send
    return session.generate(max_new_tokens=NEW)


async def measure_join(client: Client) -> dict[str, Any]:
    """A prompt of 1,024 tokens comes while four requests decode."""
    figures: dict[str, list[float]] = {"steady_p95_ms": [], "joined_p95_ms": [], "longest_gap_ms": [], "ttft_s": []}
    for _ in range(ROUNDS):
        decoding = [asyncio.create_task(client.ask(random_prompt(16), 160)) for _ in range(4)]
        await asyncio.sleep(4.0)
        joined_at = time.perf_counter()
        long = await client.ask(random_prompt(LONG_PROMPT), 4)
        replies = await asyncio.gather(*decoding)
        steady = [gap for reply in replies for gap in gaps_ms(reply, reply.text_s[2], joined_at)]
        joined = [gap for reply in replies for gap in gaps_ms(reply, joined_at, long.text_s[0])]
        figures["steady_p95_ms"].append(nearest_rank(steady, 95))
        figures["joined_p95_ms"].append(nearest_rank(joined, 95))
        figures["longest_gap_ms"].append(max(joined))
        figures["ttft_s"].append(long.text_s[0] - long.sent_s)
    ratios = [one / other for one, other in zip(figures["joined_p95_ms"], figures["steady_p95_ms"], strict=True)]
    return {name: Spread.of(values).to_dict() for name, values in figures.items()} | {
        "joined_against_steady": Spread.of(ratios).to_dict()
    }


async def measure_prefix(client: Client) -> dict[str, Any]:
    """The time to the first token of a prompt whose first 1,024 tokens were read before."""
    cold: list[float] = []
    warm: list[float] = []
    for _ in range(ROUNDS):
        shared = random_prompt(LONG_PROMPT)
        for times in (cold, warm):
            reply = await client.ask([*shared, *random_prompt(8)], 2)
            times.append(1e3 * (reply.text_s[0] - reply.sent_s))
    ratios = [after / before for before, after in zip(cold, warm, strict=True)]
    return {
        "cold_ms": Spread.of(cold).to_dict(),
        "cached_ms": Spread.of(warm).to_dict(),
        "share": Spread.of(ratios).to_dict(),
    }


async def measure_cancel(client: Client) -> dict[str, Any]:
    """From a client's disconnect to its slot being free: while it decodes, while it is read, while it waits."""
    figures: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for phase, length, wait in (("decoding", 16, 1.0), ("prefilling", LONG_PROMPT, 0.5)):
            asking = asyncio.create_task(client.ask(random_prompt(length), 400))
            await asyncio.sleep(wait)
            figures.setdefault(phase, []).append(await _until(client, asking, (0, 0)))
        busy = [asyncio.create_task(client.ask(random_prompt(16), 400)) for _ in range(SLOTS)]
        await asyncio.sleep(1.5)
        waiting = asyncio.create_task(client.ask(random_prompt(16), 8))
        await asyncio.sleep(0.5)
        figures.setdefault("queued", []).append(await _until(client, waiting, (SLOTS, 0)))
        for each in busy:
            each.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        await asyncio.sleep(1.0)
    return {f"{phase}_ms": Spread.of(values).to_dict() for phase, values in figures.items()}


async def _until(client: Client, asking: asyncio.Task[Reply], expected: tuple[int, int]) -> float:
    started_at = time.perf_counter()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    while await client.running() != expected:
        assert time.perf_counter() - started_at < 30, "the slot is not freed"
    return 1e3 * (time.perf_counter() - started_at)


async def measure_overload(client: Client) -> dict[str, Any]:
    """Requests that come one after another while the eight slots and the queue of 32 are full, and /health."""
    health: list[float] = []
    is_over = asyncio.Event()

    async def watch() -> None:
        async with httpx.AsyncClient() as http:
            while not is_over.is_set():
                started_at = time.perf_counter()
                assert (await http.get(f"{client.url}/health")).status_code == 200
                health.append(1e3 * (time.perf_counter() - started_at))
                await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    first = asyncio.create_task(client.together(SLOTS + QUEUE, length=16, new=100))
    await asyncio.sleep(2.0)
    refused = []
    for _ in range(40):
        refused.append(await client.ask(random_prompt(16), 24))
        await asyncio.sleep(0.02)
    accepted = await first
    is_over.set()
    await watching
    latencies = [1e3 * (reply.ended_s - reply.sent_s) for reply in refused if reply.failure is not None]
    kinds = sorted({reply.failure.kind for reply in refused if reply.failure is not None})
    return {
        "refused": len(latencies),
        "refused_as": kinds,
        "refused_p99_ms": round(nearest_rank(latencies, 99), 1),
        "health_p99_ms": round(nearest_rank(health, 99), 1),
        "failed_of_those_taken": sum(reply.failure is not None for reply in accepted),
    }


async def measure_equality(client: Client, model: Any) -> dict[str, Any]:
    """The ids of a completion: in process, alone, streamed, among eight, after its prefix was kept; greedy, seeded."""
    async with httpx.AsyncClient(timeout=300) as http:

        async def ids(prompt: list[int], temperature: float) -> list[int]:
            body = {"model": client.model, "prompt": prompt, "max_tokens": 24, "temperature": temperature, "seed": 7}
            answer = await http.post(
                f"{client.url}/v1/completions", json=body | {"return_token_ids": True, "logprobs": 0}
            )
            return list(answer.json()["choices"][0]["token_ids"])

        changed = compared = 0
        for temperature in (0.0, 0.8):
            prompts = [random_prompt(60 + 10 * number) for number in range(8)]
            session_ids = []
            for prompt in prompts:
                session = model.session()
                session._ids = list(prompt)
                params = {"max_new_tokens": 24, "temperature": temperature} | ({"seed": 7} if temperature else {})
                session_ids.append(list((await asyncio.to_thread(session.generate, **params)).token_ids))
            alone = [await ids(prompt, temperature) for prompt in prompts]
            among = await asyncio.gather(*(ids(prompt, temperature) for prompt in prompts))
            cached = [await ids(prompt, temperature) for prompt in prompts]
            for found in (alone, among, cached):
                compared += len(prompts)
                changed += sum(one != other for one, other in zip(session_ids, found, strict=True))
    return {"compared": compared, "changed": changed}


PARTS: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
    "throughput": measure_throughput,
    "join": measure_join,
    "prefix": measure_prefix,
    "cancel": measure_cancel,
    "overload": measure_overload,
    "equality": measure_equality,
}


async def measure(url: str, bundle: Path, parts: Sequence[str], result: dict[str, Any]) -> None:
    """All parts, one after another."""
    client = Client(url, bundle.name)
    await client.together(2)
    with codegen_edge.load_model(bundle, check="size", exact_steps=True) as model:
        _generate(model, random_prompt(PROMPT))
        for part in parts:
            needs_model = part in ("throughput", "equality")
            result[part] = await (PARTS[part](client, model) if needs_model else PARTS[part](client))
            click.echo(f"{part}: {json.dumps(result[part])}")
            RESULT.write_text(json.dumps(result, indent=2) + "\n")


@click.command()
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option("--part", "parts", multiple=True, type=click.Choice(list(PARTS)))
def main(bundle: Path | None, parts: tuple[str, ...]) -> None:
    """Write benchmarks/results/serve.json; BUNDLE instead of a fresh one of the 350M shape."""
    result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() and parts else {}
    result["machine"] = describe_machine()
    result["shape"] = {"slots": SLOTS, "queue": QUEUE, "prompt_tokens": PROMPT, "new_tokens": NEW, "rounds": ROUNDS}
    with tempfile.TemporaryDirectory(prefix="codegen-edge-serve-") as name:
        folder = Path(name)
        if bundle is None:
            write_random_checkpoint(folder / "checkpoint", SHAPES["350M"], texts=TEXTS)
            plain = codegen_edge.export(folder / "checkpoint", folder / "fp32", verify=False).bundle
            made = codegen_edge.quantize(plain, folder / "int8", scheme="int8", method="round", measure_tokens=0)
            bundle = made.bundle.path
        with start_server(bundle, "--slots", str(SLOTS), "--queue", str(QUEUE)) as (url, _):
            asyncio.run(measure(url, bundle, parts or list(PARTS), result))


if __name__ == "__main__":
    main()
