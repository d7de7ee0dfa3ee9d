"""The load driver against a fake server whose every delay and fault is scripted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import ssl
import statistics
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from codegen_edge.cli.bench_serve import bench_serve
from codegen_edge.errors import BackendError, CodegenEdgeError, InvalidInputError
from codegen_edge.server.load.client import CompletionClient, Reply, completion_body
from codegen_edge.server.load.connection import Endpoint, Failure, error_message
from codegen_edge.server.load.driver import ClosedLoop, Load, OpenLoop, drive, warm_up
from codegen_edge.server.load.events import EventDecoder
from codegen_edge.server.load.results import Distribution, LoadResult, Sample, summarize

CLOSE_MS = 15  # of transport and scheduling on a busy machine; a fault in the accounting is larger
PERCENTILES = {"count", "mean_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms"}


class Exchange:
    """One request to the fake server, and the means to answer it."""

    def __init__(self, writer: asyncio.StreamWriter, target: str, headers: dict[str, str], body: bytes) -> None:
        self.target = target
        self.headers = headers
        self.body: dict[str, Any] = json.loads(body) if body else {}
        self.received_s = time.perf_counter()
        self.text_s: list[float] = []
        self.ended_s = 0.0
        self._writer = writer

    def head(self, status: int = 200, *lines: str) -> None:
        framing = "Transfer-Encoding: chunked" if status == 200 else "Connection: close"
        self._writer.write("\r\n".join([f"HTTP/1.1 {status} Scripted", framing, *lines, "", ""]).encode())

    def raw(self, data: str) -> None:
        self._writer.write(f"{len(data.encode()):x}\r\n{data}\r\n".encode())

    def event(self, **chunk: Any) -> None:
        self.raw(f"data: {json.dumps(chunk)}\n\n")

    def text(self, text: str, **others: Any) -> None:
        self.event(choices=[{"index": 0, "text": text, "finish_reason": None}], usage=None, **others)
        if text:
            self.text_s.append(time.perf_counter())

    def done(self) -> None:
        self.raw("data: [DONE]\n\n")
        self.raw("")
        self.ended_s = time.perf_counter()

    def cut(self) -> None:
        self._writer.transport.abort()

    def refuse(self, status: int, *lines: str, message: str = "scripted") -> None:
        self.head(status, *lines)
        self._writer.write(json.dumps({"error": {"message": message, "type": "scripted"}}).encode())

    def say(self, *texts: str) -> None:
        self.head()
        for text in texts:
            self.text(text)
        self.done()


Script = Callable[[Exchange], Awaitable[None]]


class FakeServer:
    """Answers each request as its script says, on a free port of this machine."""

    def __init__(
        self,
        script: Script,
        models: tuple[str, ...] = ("scripted-model", "other"),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.tls = tls
        self.exchanges: list[Exchange] = []
        self.models = models
        self.port = 0
        self._script = script
        self._handlers: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self.tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            for handler in self._handlers:
                handler.cancel()
            await asyncio.gather(*self._handlers, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.get_running_loop().create_task(self._handle(reader, writer))
        self._handlers.add(handler)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            exchange = Exchange(writer, first.split()[1], headers, body)
            if exchange.target.endswith("/models"):
                models = json.dumps({"data": [{"id": model} for model in self.models]})
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(models)}\r\n\r\n{models}".encode())
            else:
                self.exchanges.append(exchange)
                await self._script(exchange)
            with contextlib.suppress(OSError):
                await writer.drain()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def measured(server: FakeServer, load: Load, num_requests: int, **options: Any) -> LoadResult:
    async def run() -> LoadResult:
        async with server.running():
            client = CompletionClient(Endpoint.parse(server.url), **options)
            return await drive(client, [BODY] * num_requests, load)

    return asyncio.run(run())


def replied(script: Script, **options: Any) -> Reply:
    async def run() -> Reply:
        server = FakeServer(script)
        async with server.running():
            return await CompletionClient(Endpoint.parse(server.url), **options).complete(BODY)

    return asyncio.run(run())


def found(distribution: Distribution | None) -> Distribution:
    assert distribution is not None
    return distribution


BODY = completion_body("scripted-model", "def f():", max_tokens=8, temperature=0.0)


async def hello(exchange: Exchange) -> None:
    exchange.say("a", "b")


def test_scripted_delays_are_recovered() -> None:
    async def script(exchange: Exchange) -> None:
        exchange.head()
        exchange.raw(": ping\n\n")
        await asyncio.sleep(0.02)
        exchange.text("")  # no first token yet
        await asyncio.sleep(0.06)
        for number in range(4):
            exchange.text(f"{number}")
            await asyncio.sleep(0.03)
        exchange.done()

    server = FakeServer(script)
    result = measured(server, ClosedLoop(concurrency=2), 6)
    seen = server.exchanges
    first_ms = 1e3 * statistics.median(each.text_s[0] - each.received_s for each in seen)
    gap_ms = 1e3 * statistics.median(b - a for each in seen for a, b in zip(each.text_s, each.text_s[1:], strict=False))
    end_ms = 1e3 * statistics.median(each.ended_s - each.received_s for each in seen)
    assert first_ms > 75
    assert found(result.time_to_first_token).p50_ms == pytest.approx(first_ms, abs=CLOSE_MS)
    assert found(result.inter_token_latency).p50_ms == pytest.approx(gap_ms, abs=CLOSE_MS)
    assert found(result.inter_token_latency).count == 6 * 3
    assert found(result.time_per_output_token).p50_ms == pytest.approx(gap_ms, abs=CLOSE_MS)
    assert found(result.end_to_end_latency).p50_ms == pytest.approx(end_ms, abs=CLOSE_MS)
    assert (result.completed, result.errors, result.peak_concurrency) == (6, {}, 2)
    assert (result.output_tokens, result.token_source) == (24, "chunks")


def one_at_a_time(service_s: float) -> Script:
    lock = asyncio.Lock()

    async def script(exchange: Exchange) -> None:
        async with lock:
            await asyncio.sleep(service_s)
            exchange.say("a")

    return script


@pytest.mark.quiet
def test_open_loop_counts_the_queue_of_an_overloaded_server() -> None:
    server = FakeServer(one_at_a_time(0.05))
    result = measured(server, OpenLoop(rate=100), 20)
    latency = found(result.end_to_end_latency)
    wanted_ms = 20 * 50 - 19 * 10
    # What the server's sleeps and the machine added is known from the server's own clock.
    last_s = max(each.ended_s for each in server.exchanges) - min(each.received_s for each in server.exchanges)
    assert wanted_ms - CLOSE_MS <= latency.p99_ms <= 1e3 * last_s - 190 + 2 * CLOSE_MS
    assert latency.p50_ms >= 10 * 50 - 9 * 10 - CLOSE_MS
    assert result.peak_concurrency > 10


@pytest.mark.quiet
def test_closed_loop_of_one_never_queues() -> None:
    result = measured(FakeServer(one_at_a_time(0.05)), ClosedLoop(), 5)
    assert 50 - 2 <= found(result.end_to_end_latency).p50_ms < 100
    assert result.peak_concurrency == 1


def test_a_stall_of_the_driver_itself_is_counted_from_the_intended_time() -> None:
    stalls = iter([0.25])

    async def script(exchange: Exchange) -> None:
        time.sleep(next(stalls, 0))  # the driver runs in the same loop and cannot send meanwhile
        exchange.say("a")

    result = measured(FakeServer(script), OpenLoop(rate=100), 10)
    assert found(result.end_to_end_latency).p50_ms > 250 - 100
    assert found(result.time_to_first_token).p50_ms > 250 - 100
    assert found(result.send_delay).p50_ms > 250 - 100


def test_latencies_count_from_the_intended_time() -> None:
    reply = Reply(sent_s=5.0, connect_s=0.1, text_s=(6.0, 6.5), ended_s=7.0, usage_tokens=None, failure=None)
    result = summarize([Sample(intended_s=2.0, reply=reply)])
    assert found(result.time_to_first_token).max_ms == 4000
    assert found(result.end_to_end_latency).max_ms == 5000
    assert found(result.send_delay).max_ms == 3000
    assert (result.duration_s, result.requests_per_second, result.output_tokens_per_second) == (5.0, 0.2, 0.4)


def test_percentiles_are_by_nearest_rank() -> None:
    hundred = found(Distribution.of(number / 1e3 for number in range(100, 0, -1)))
    assert (hundred.p50_ms, hundred.p90_ms, hundred.p95_ms, hundred.p99_ms, hundred.max_ms) == (50, 90, 95, 99, 100)
    few = found(Distribution.of([0.004, 0.001, 0.002]))
    assert (few.count, few.p50_ms, few.p90_ms, few.p99_ms) == (3, 2, 4, 4)
    assert Distribution.of([]) is None


def test_errors_are_counted_by_kind() -> None:
    async def midway(exchange: Exchange) -> None:
        exchange.head()
        exchange.text("a")
        exchange.event(error={"message": "out of memory", "code": 500})
        exchange.done()

    async def cut_short(exchange: Exchange) -> None:
        exchange.head()
        exchange.text("a")
        exchange.raw("")

    async def no_json(exchange: Exchange) -> None:
        exchange.head()
        exchange.raw("data: <html>\n\n")

    async def stalls(exchange: Exchange) -> None:
        exchange.head()
        exchange.text("a")
        await asyncio.sleep(60)

    async def resets(exchange: Exchange) -> None:
        exchange.head()
        exchange.text("a")
        exchange.cut()

    async def too_many(exchange: Exchange) -> None:
        exchange.refuse(429, "Retry-After: 0", message="queue is full")

    async def unavailable(exchange: Exchange) -> None:
        exchange.refuse(503)

    scripts = iter([hello, too_many, too_many, unavailable, midway, cut_short, no_json, stalls, resets, hello])

    async def script(exchange: Exchange) -> None:
        await next(scripts)(exchange)

    result = measured(FakeServer(script), ClosedLoop(), 10, timeout_s=0.4)
    kinds = dict(result.errors)
    assert kinds.pop("protocol") + kinds.pop("connection", 0) == 3  # a cut is one or the other, as the kernel sees it
    assert kinds == {"429": 2, "503": 1, "stream error": 1, "timeout": 1}
    assert result.error_messages["429"] == "queue is full"
    assert result.error_messages["stream error"] == "out of memory"
    assert (result.requests, result.completed, result.retries) == (10, 2, 0)
    assert result.output_tokens == 4
    assert found(result.end_to_end_latency).count == 2


def test_server_that_stalls_is_cut_at_the_timeout() -> None:
    async def script(exchange: Exchange) -> None:
        await asyncio.sleep(60)

    reply = replied(script, timeout_s=0.15)
    assert reply.failure == Failure(kind="timeout", message="no end within 0.15 s")
    assert 0.15 <= reply.ended_s - reply.sent_s < 1


def test_connection_that_stays_open_after_the_end_costs_no_latency() -> None:
    async def script(exchange: Exchange) -> None:
        exchange.head()
        exchange.text("a")
        exchange.raw("data: [DONE]\n\n")
        await asyncio.sleep(60)

    reply = replied(script, timeout_s=0.3)
    assert reply.failure is None
    assert reply.ended_s - reply.sent_s < 0.2


def test_usage_is_counted_not_chunks() -> None:
    async def script(exchange: Exchange) -> None:
        assert exchange.body["stream_options"] == {"include_usage": True}
        exchange.head()
        exchange.text("ab")
        exchange.text("cd")
        exchange.event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10})
        exchange.done()

    result = measured(FakeServer(script), ClosedLoop(), 2)
    assert (result.output_tokens, result.token_source) == (14, "usage")
    assert found(result.inter_token_latency).count == 2


def test_answer_without_text_is_complete() -> None:
    async def script(exchange: Exchange) -> None:
        exchange.head()
        exchange.event(choices=[{"index": 0, "text": "", "finish_reason": "stop"}])
        exchange.raw("")  # and no [DONE]: some servers send none

    result = measured(FakeServer(script), ClosedLoop(), 1)
    assert (result.completed, result.output_tokens, result.time_to_first_token) == (1, 0, None)


@pytest.mark.parametrize(
    "header", ["Retry-After: 0.1", "retry-after-ms: 100", f"Retry-After: {formatdate(0, usegmt=True)}"]
)
def test_retry_after_is_honoured_on_demand(header: str) -> None:
    def refusing_once() -> Script:
        refusals = iter([True])

        async def script(exchange: Exchange) -> None:
            if next(refusals, False):
                exchange.refuse(503, header)
            else:
                exchange.say("a")

        return script

    plain = replied(refusing_once())
    assert plain.failure is not None
    assert (plain.failure.kind, plain.retries) == ("503", 0)
    retried = replied(refusing_once(), is_retrying=True)
    assert (retried.failure, retried.retries) == (None, 1)
    assert retried.ended_s - retried.sent_s > (0.04 if "GMT" in header else 0.09)


def test_retry_that_the_timeout_forbids_is_not_waited_for() -> None:
    async def script(exchange: Exchange) -> None:
        exchange.refuse(429, "Retry-After: 30")

    reply = replied(script, is_retrying=True, timeout_s=5)
    assert reply.failure is not None
    assert (reply.failure.kind, reply.failure.retry_after_s) == ("429", 30)
    assert reply.ended_s - reply.sent_s < 1


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_events_are_the_same_however_the_body_is_cut(size: int, end: str) -> None:
    lines = (": ping", "", "event: x", "data: é1", "", "data:two", "data: lines", "", "id: 4", "", "data: [DONE]", "")
    body = (end.join(lines) + end).encode()
    decoder = EventDecoder()
    events = [event for start in range(0, len(body), size) for event in decoder.feed(body[start : start + size])]
    assert events == ["é1", "two\nlines", "[DONE]"]


def test_schedules_are_fixed_beforehand() -> None:
    assert OpenLoop(rate=4).schedule_s(3) == [0.0, 0.25, 0.5]
    poisson = OpenLoop(rate=50, is_poisson=True, seed=7)
    times = poisson.schedule_s(4000)
    assert times == poisson.schedule_s(4000) == sorted(times)
    assert times != OpenLoop(rate=50, is_poisson=True, seed=8).schedule_s(4000)
    assert times[-1] == pytest.approx(4000 / 50, rel=0.1)
    assert OpenLoop(rate=1, is_poisson=True).schedule_s(1) == [0.0]


def test_urls() -> None:
    assert Endpoint.parse("http://h:81") == Endpoint(host="h", port=81, is_tls=False, prefix="/v1")
    assert Endpoint.parse("https://h/api/v1/") == Endpoint(host="h", port=443, is_tls=True, prefix="/api/v1")
    assert str(Endpoint.parse("http://[::1]:81/v1")) == "http://[::1]:81/v1"


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://h", "http://", "http://h:x", "http://u:p@h", "http://h/a b", "http://h/?a=1"]
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(InvalidInputError, match="url must"):
        Endpoint.parse(url)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ClosedLoop(concurrency=0),
        lambda: OpenLoop(rate=0),
        lambda: OpenLoop(rate=float("nan")),
        lambda: OpenLoop(rate=1, seed=-1),
        lambda: CompletionClient(Endpoint.parse("http://h"), timeout_s=0),
        lambda: CompletionClient(Endpoint.parse("http://h"), api_key="a\nb"),
    ],
)
def test_wrong_arguments_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(InvalidInputError, match="must"):
        make()


def test_messages_of_errors_in_many_forms() -> None:
    assert error_message(b'{"error": {"message": "m", "code": 1}}') == "m"
    assert error_message('{"error": "m"}') == "m"
    assert error_message('{"object": "error", "message": "m"}') == "m"
    assert error_message('{"detail": "m"}') == "m"
    assert error_message(b"<html>") == "<html>"


@pytest.mark.parametrize(("status", "error"), [(401, InvalidInputError), (404, InvalidInputError), (500, BackendError)])
def test_warm_up_that_fails_ends_the_run(status: int, error: type[CodegenEdgeError]) -> None:
    async def script(exchange: Exchange) -> None:
        exchange.refuse(status, message="not this one")

    async def run() -> None:
        server = FakeServer(script)
        async with server.running():
            await warm_up(CompletionClient(Endpoint.parse(server.url)), [BODY])

    with pytest.raises(error, match=f"status {status}, not this one"):
        asyncio.run(run())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_first_model_is_asked_for_by_name_and_by_number(host: str) -> None:
    async def ask(models: tuple[str, ...]) -> str:
        server = FakeServer(hello, models)
        async with server.running():
            return await CompletionClient(Endpoint.parse(f"http://{host}:{server.port}")).first_model()

    assert asyncio.run(ask(("first", "second"))) == "first"
    with pytest.raises(BackendError, match="lists no model"):
        asyncio.run(ask(()))


@contextlib.contextmanager
def served(script: Script) -> Iterator[FakeServer]:
    """A fake server in a thread of its own."""
    server = FakeServer(script)
    started = threading.Event()
    stop: list[Callable[[], object]] = []

    async def serve() -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        stop.append(lambda: loop.call_soon_threadsafe(ended.set))
        async with server.running():
            started.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(10)
        yield server
    finally:
        stop[0]()
        thread.join()


def command(*arguments: object) -> Result:
    return CliRunner().invoke(bench_serve, [str(argument) for argument in arguments])


def test_command_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    with served(hello) as server:
        done = command(server.url, "--requests", 6, "--concurrency", 3, "--api-key", "secret", "--json", report)
    assert done.exit_code == 0, done.output
    assert "first token" in done.output
    assert "6 of 6 requests completed" in done.output
    assert len(server.exchanges) == 7  # with the warm-up
    assert {each.headers["authorization"] for each in server.exchanges} == {"Bearer secret"}
    prompts = [each.body["prompt"] for each in server.exchanges]
    assert len(set(prompts)) == 7
    written = json.loads(report.read_text())
    assert "secret" not in report.read_text()
    assert written.keys() == {"url", "model", "load", "settings", "result"}
    assert (written["model"], written["load"]) == ("scripted-model", {"kind": "closed loop", "concurrency": 3})
    result = written["result"]
    assert result.keys() == LoadResult.__dataclass_fields__.keys()
    for name in ("time_to_first_token", "inter_token_latency", "end_to_end_latency", "connect", "send_delay"):
        assert result[name].keys() == PERCENTILES
    assert (result["completed"], result["output_tokens"], result["errors"]) == (6, 12, {})


def test_command_takes_prompts_and_an_open_loop(tmp_path: Path) -> None:
    text, tokens, report = tmp_path / "prompt.py", tmp_path / "tokens.jsonl", tmp_path / "report.json"
    text.write_text("import os\n")
    tokens.write_text("[1, 2, 3]\n[4]\n")
    arguments = ("--prompt", text, "--prompt-tokens-file", tokens, "--max-tokens", 5, "--temperature", 0.5)
    with served(hello) as server:
        done = command(
            server.url, "--model", "mine", "--rate", 200, "--poisson", "--seed", 3, "--requests", 4, "--warm-up", 0,
            *arguments, "--json", report,
        )  # fmt: skip
    assert done.exit_code == 0, done.output
    asked = [each.body for each in server.exchanges]
    assert sorted(str(each["prompt"]) for each in asked) == ["[1, 2, 3]", "[4]", "import os\n", "import os\n"]
    assert {(each["model"], each["max_tokens"], each["temperature"], each["stream"]) for each in asked} == {
        ("mine", 5, 0.5, True)
    }
    assert json.loads(report.read_text())["load"] == {"kind": "open loop", "rate": 200, "poisson": True, "seed": 3}


def test_command_fails_when_nothing_was_completed() -> None:
    async def script(exchange: Exchange) -> None:
        exchange.refuse(503, message="queue is full")

    with served(script) as server:
        done = command(server.url, "--requests", 3, "--warm-up", 0)
    assert isinstance(done.exception, BackendError)
    assert "3 failed: 503 (queue is full)" in done.output


@pytest.mark.parametrize("model", [(), ("--model", "mine")])
def test_command_says_that_no_server_answers(model: tuple[str, ...]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = command(f"http://127.0.0.1:{port}", *model)
    assert isinstance(done.exception, InvalidInputError)
    assert f"http://127.0.0.1:{port}/v1 cannot be reached: connection refused" in str(done.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rate", 1, "--concurrency", 2), "not both"),
        (("--poisson",), "need a rate"),
        (("--json", "/no/such/folder/report.json"), "is not a folder"),
        (("--timeout", 0), "timeout_s must"),
    ],
)
def test_command_refuses_wrong_options(arguments: tuple[object, ...], message: str) -> None:
    done = command("http://127.0.0.1:9", *arguments)
    assert isinstance(done.exception, InvalidInputError)
    assert message in str(done.exception)


@pytest.mark.parametrize("line", ["nonsense", "[]", "[1, -2]", "[true]", '{"a": 1}'])
def test_command_refuses_token_files_of_other_forms(line: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens.jsonl"
    path.write_text(f"[1]\n{line}\n")
    done = command("http://127.0.0.1:9", "--prompt-tokens-file", path)
    assert isinstance(done.exception, InvalidInputError)
    assert "line 2: wanted a JSON array of token ids" in str(done.exception)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for this machine that nobody knows, with its key."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed")
    path = tmp_path / "server.pem"
    command = [program, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    key, known = tmp_path / "key.pem", tmp_path / "cert.pem"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(known)]
    subprocess.run([*command, *names], check=True, capture_output=True)
    path.write_bytes(key.read_bytes() + known.read_bytes())
    return path


@pytest.mark.parametrize("is_known", [True, False])
def test_server_behind_tls_is_measured_if_its_certificate_is_known(
    certificate: Path, is_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_known:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    result = measured(FakeServer(hello, tls=tls), ClosedLoop(), 3)
    assert sum(result.errors.values()) == (0 if is_known else 3)
    if not is_known:
        assert "certificate verify failed" in " ".join(result.error_messages.values()).lower()
