"""What takes too long, reads too slowly, or fails unexpectedly ends by itself and is told in one line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.testclient import TestClient

from codegen_edge.bundle import Bundle
from codegen_edge.generation.model import Model
from codegen_edge.server.engine import Engine, Job
from codegen_edge.server.http.protocol import protocol_with_limit
from codegen_edge.server.http.streams import EventStream
from tests.server.dialects.recorded import listening, slow_steps
from tests.server.http.conftest import serving
from tests.server.http.test_process import connect, running


def test_request_without_a_slot_in_time_is_504(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(model, slots=1, queue_seconds=0.3) as client:
        long = {"prompt": "def f():", "max_tokens": 400, "ignore_eos": True, "temperature": 0}
        busy = threading.Thread(target=client.post, args=("/v1/completions",), kwargs={"json": long})
        state = client.app.state  # type: ignore[attr-defined]
        with slow_steps(monkeypatch, model, 0.05):
            busy.start()
            while not state.served[0].engine.snapshot().running:
                time.sleep(0.01)
            for body in ({"prompt": "x"}, {"prompt": "x", "stream": True}):
                answer = client.post("/v1/completions", json=body)
                assert (answer.status_code, answer.json()["error"]["code"]) == (504, "queue_timeout")
        busy.join()
        assert state.served[0].engine.snapshot().waiting == 0


class _Running:
    is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


def test_reader_that_takes_nothing_is_cancelled() -> None:
    gone: list[bool] = []
    running: Any = _Running()

    async def chunks() -> AsyncIterator[Any]:
        while True:
            yield {"text": "x"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def answer() -> None:
        stream = EventStream(running, chunks(), headers={}, write_seconds=0.05, on_gone=lambda: gone.append(True))
        await stream({"type": "http"}, receive, send)

    asyncio.run(asyncio.wait_for(answer(), 5))
    assert (running.is_cancelled, gone) == (True, [True])


def test_reader_on_a_socket_that_takes_nothing_loses_its_slot(model: Model) -> None:
    body = {
        "prompt": "def f():",
        "max_tokens": 480,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "logprobs": 5,
    }
    asked = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(asked)}\r\n\r\n".encode()
    with (
        listening(model, send_buffer_bytes=4096, write_seconds=0.3) as url,
        socket.socket() as reader,
        httpx.Client(base_url=url, timeout=20) as client,
    ):
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = url.removeprefix("http://").split(":")
        reader.connect((host, int(port)))
        reader.sendall(head + asked)
        assert reader.recv(12) == b"HTTP/1.1 200"
        until = time.monotonic() + 30
        while not re.search(r"client_disconnected_total(?:{.*})? [1-9]", metrics := client.get("/metrics").text):
            assert time.monotonic() < until, metrics
            time.sleep(0.05)
        assert client.post("/v1/completions", json={"prompt": "x", "max_tokens": 1}).status_code == 200
        assert re.search(r"num_requests_running{.*} 0.0", client.get("/metrics").text)


def test_silence_in_a_stream_is_filled_with_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codegen_edge.server.http.streams._PING_SECONDS", 0.02)
    sent: list[bytes] = []

    async def chunks() -> AsyncIterator[Any]:
        await asyncio.sleep(0.4)
        yield {"text": "x"}

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def answer() -> None:
        running: Any = _Running()
        await EventStream(running, chunks(), headers={}, write_seconds=1, on_gone=lambda: None)({}, receive, send)

    asyncio.run(answer())
    assert sent.count(b": ping\n\n") >= 2
    assert sent[-2:] == [b'data: {"text":"x"}\n\n', b"data: [DONE]\n\n"]


def talk(port: int, *parts: bytes) -> bytes:
    """Send the parts, one after each answer, and read until the connection ends."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(parts[0])
        with contextlib.suppress(ConnectionResetError):
            while chunk := client.recv(4096):
                received += chunk
                client.sendall(b"".join(parts[1:]))
                parts = parts[:1]
    return received


def test_head_that_does_not_come_closes_the_connection() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    config = uvicorn.Config(app, http=protocol_with_limit(0.3), lifespan="off", log_level="error", port=0)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        assert talk(port, b"") == b""
        assert talk(port, b"GET / HTTP/1.1\r\nHost: lo") == b""
        # The head of a second request is limited, too.
        assert talk(port, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET / HT").count(b"ok") == 1
        assert httpx.get(f"http://127.0.0.1:{port}/").text == "ok"
    finally:
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize("path", ["/%2e%2e/etc/passwd", "/page/../../pyproject.toml", "/v1", "/page/app.js/"])
def test_no_path_gives_a_file(client: TestClient, path: str) -> None:
    answer = client.get(path, follow_redirects=False)
    assert answer.status_code in (307, 404)
    assert "[project]" not in answer.text


@pytest.mark.parametrize("method", ["PUT", "DELETE", "TRACE", "PATCH"])
def test_other_methods_are_refused(client: TestClient, method: str) -> None:
    assert client.request(method, "/v1/completions").status_code == 405


def test_unexpected_failure_tells_nothing_and_the_next_request_is_answered(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Engine, job: Job) -> Any:
        raise OSError("/secret/path is gone")

    with serving(model) as client:
        silent = TestClient(client.app, base_url="http://localhost", raise_server_exceptions=False)
        with monkeypatch.context() as patched:
            patched.setattr(Engine, "submit", fail)
            answer = silent.post("/v1/completions", json={"prompt": "x"})
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert answer.json()["error"]["type"] == "server_error"
        assert client.post("/v1/completions", json={"prompt": "x", "max_tokens": 1}).status_code == 200


def test_port_in_use_is_told_in_a_line(trained_bundle: Bundle) -> None:
    with running(trained_bundle) as (url, _):
        port = url.rsplit(":", 1)[1]
        with (
            pytest.raises(AssertionError, match="cannot be listened on: Address already in use"),
            running(trained_bundle, "--port", port),
        ):
            pass


def test_prompts_are_logged_only_where_asked_for_and_without_control_characters(trained_bundle: Bundle) -> None:
    secret = "a secret \x1b[31m prompt\r\nINFO forged"
    for options, is_logged in (([], False), (["--log-prompts"], True)):
        with running(trained_bundle, *options) as (url, process):
            httpx.post(f"{url}/v1/completions", json={"prompt": secret, "max_tokens": 1})
            with connect(url) as client:
                client.sendall(b"GET /secret%0d%0aINFO HTTP/1.1\r\nHost: localhost\r\n\r\n")
                client.recv(100)
            process.terminate()
            assert process.stderr is not None
            log = process.stderr.read()
            assert ("a secret" in log) == is_logged
            assert "\x1b" not in log
            assert not any(line.startswith("INFO") for line in log.splitlines())
            if is_logged:
                assert json.dumps(secret)[1:-1] in log


def test_failed_engine_is_told_by_every_probe(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any) -> Any:
        raise RuntimeError("a fault")

    with serving(model) as client:
        assert [client.get(path).status_code for path in ("/health", "/live", "/ready")] == [200, 200, 200]
        monkeypatch.setattr("codegen_edge.server.engine.scheduler.Scheduler.turn", fail)
        answer = client.post("/v1/completions", json={"prompt": "x"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_dead")
        assert answer.headers["x-should-retry"] == "false"
        assert [client.get(path).status_code for path in ("/health", "/live", "/ready")] == [503, 503, 503]
        assert client.post("/v1/completions", json={"prompt": "x"}).status_code == 503
