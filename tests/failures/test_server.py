"""Rows S02–S23: what the server's own tests leave open, over sockets where a test client would not show it."""

from __future__ import annotations

import json
import logging
import re
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn

from codegen_edge import load_model
from codegen_edge.bundle import Bundle
from codegen_edge.generation.model import Model
from codegen_edge.server.http import ServerSettings, create_app
from codegen_edge.server.http.protocol import protocol_with_limit
from tests.server.dialects.recorded import on_a_socket, served_as, serving
from tests.server.http.test_process import running

SOUND = {"prompt": "def f():", "max_tokens": 2, "temperature": 0}
PATIENCE_SECONDS = 20.0


@pytest.fixture(scope="module")
def model(tiny_bundle: Bundle) -> Iterator[Model]:
    with load_model(tiny_bundle.path, check="size", exact_steps=True) as opened:
        yield opened


@contextmanager
def listening(model: Model, **settings: Any) -> Iterator[tuple[str, int]]:
    """A server on a socket, with the connections that `codegen-edge serve` has."""
    checked = ServerSettings(**settings)
    http = protocol_with_limit(checked.header_seconds)
    app = create_app([served_as("tiny", model)], checked)
    config = uvicorn.Config(app, log_level="error", lifespan="on", ws="none", http=http, proxy_headers=False)
    with on_a_socket(config) as address:
        yield address


@pytest.fixture(scope="module")
def address(model: Model) -> Iterator[tuple[str, int]]:
    with listening(model, body_seconds=0.5) as found:
        yield found


def told(address: tuple[str, int], request: bytes) -> bytes:
    """Everything that a server answers before it ends the connection, or falls silent."""
    received = b""
    with socket.create_connection(address, timeout=3) as client:
        try:
            client.sendall(request)
            while chunk := client.recv(65536):
                received += chunk
        except (ConnectionError, TimeoutError):
            pass
    return received


def still_answers(address: tuple[str, int]) -> bool:
    answer = httpx.post(f"http://{address[0]}:{address[1]}/v1/completions", json=SOUND, timeout=PATIENCE_SECONDS)
    return answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == 2


HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
BODY = json.dumps(SOUND).encode()
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)


def test_S02_length_of_10_gb_is_413_before_anything_is_read(address: tuple[str, int]) -> None:
    answer = told(address, HEAD + b"Content-Length: 10000000000\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert still_answers(address)


def test_S03_body_that_does_not_come_is_408(address: tuple[str, int]) -> None:
    answer = told(address, HEAD + b"Connection: close\r\nContent-Length: 100\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert still_answers(address)


@pytest.mark.parametrize(
    "headers",
    [
        b"X-Large: " + b"x" * (1 << 20) + b"\r\n",
        b"".join(b"X-%d: x\r\n" % number for number in range(10_000)),
        b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n" % len(CHUNKED),
        b"Content-Length: 4\r\nContent-Length: 5\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: many\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Bad Name: x\r\n",
        b"X-Folded: a\r\n b\x00c\r\n",
    ],
    ids=["1 MB", "10,000", "two lengths", "two others", "negative", "no number", "encodings", "name", "NUL"],
)
def test_S04_malformed_head_is_refused_and_the_connection_closed(address: tuple[str, int], headers: bytes) -> None:
    body = CHUNKED if b"Transfer" in headers else b""
    answer = told(address, HEAD + headers + b"Connection: close\r\n\r\n" + body)
    assert not answer or re.match(rb"HTTP/1\.1 4\d\d ", answer), answer[:200]
    assert answer.count(b"HTTP/1.1 ") <= 1, "what follows is no second request"
    assert still_answers(address)


def test_S04_range_is_passed_over(address: tuple[str, int]) -> None:
    url = f"http://{address[0]}:{address[1]}"
    for value in ("bytes=0-", "bytes=" + ",".join(f"{number}-" for number in range(5000)), "x", "bytes=5-1"):
        answer = httpx.get(f"{url}/page/app.js", headers={"Range": value})
        assert answer.status_code in (200, 206, 400, 416)
        assert len(answer.content) < 1 << 20
    assert still_answers(address)


def test_S08_requests_beside_bad_and_cancelled_ones_get_their_own_answers(model: Model) -> None:
    prompts = [f"x{number} = [{number}, {number + 1}]\n" for number in range(20)]
    expected = [model.generate(prompt, max_new_tokens=6).text for prompt in prompts]

    with listening(model, queue_seconds=60) as found, httpx.Client(timeout=60) as client:
        url = f"http://{found[0]}:{found[1]}/v1/completions"

        def ask(number: int) -> bool:
            kind, prompt = number % 5, prompts[number % len(prompts)]
            body = {"prompt": prompt, "max_tokens": 6, "temperature": 0}
            if kind == 0:
                return client.post(url, json=body | {"temperature": -1}).status_code == 400
            if kind == 1:
                with client.stream("POST", url, json=body | {"stream": True}) as answer:
                    return answer.status_code == 200  # and goes away
            found = client.post(url, json=body)
            return bool(found.json()["choices"][0]["text"] == expected[number % len(prompts)])

        with ThreadPoolExecutor(10) as pool:
            assert all(pool.map(ask, range(100)))


class Collecting(logging.Handler):
    """Keeps what is logged."""

    def __init__(self, records: list[logging.LogRecord]) -> None:
        super().__init__()
        self._records = records

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self._records.append(record)


@contextmanager
def every_log(handler: logging.Handler) -> Iterator[None]:
    """Let a handler hear of everything that is logged, debugging too."""
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def test_S10_only_the_whole_key_in_a_header_is_a_key(model: Model) -> None:
    logged: list[logging.LogRecord] = []
    with every_log(Collecting(logged)), serving(model, api_keys=("secret-key",)) as client:
        for headers in (
            {"Authorization": "Bearer secret-ke"},
            {"Authorization": "Bearer secret-keyy"},
            {"Authorization": "Bearer "},
            {"Authorization": "Basic secret-key"},
            {"Authorization": b"Bearer s\xc3\xa9cret-key"},
            {"Authorization": "Bearer wrong", "X-Api-Key": "secret-key"},
            {"Cookie": "X-Api-Key=secret-key"},
        ):
            answer = client.get("/v1/models", headers=headers)  # type: ignore[arg-type]
            assert answer.status_code == 401, headers
            assert "secret" not in answer.text
            assert answer.json()["error"]["type"] == "authentication_error"
        for query in ("api_key=secret-key", "key=secret-key", "x-api-key=secret-key"):
            assert client.get(f"/v1/models?{query}").status_code == 401
        assert client.get("/v1/models", headers={"Authorization": "bearer secret-key"}).status_code == 200
    of_the_client = ("httpx", "httpcore")
    said = [record.getMessage() for record in logged if not record.name.startswith(of_the_client)]
    assert not [line for line in said if "secret" in line]


def test_S13_no_origin_is_allowed_by_default(model: Model) -> None:
    with serving(model) as client:
        for origin in ("https://evil.example", "null", "http://localhost", "file://"):
            asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            for answer in (client.options("/v1/completions", headers=asked), client.get("/health", headers=asked)):
                assert not [name for name in answer.headers if name.startswith("access-control-")], origin
    with serving(model, cors_origins=("https://a.example",)) as client:
        answer = client.options("/v1/completions", headers={"Origin": "null"})
        assert "access-control-allow-origin" not in answer.headers
        answer = client.get("/health", headers={"Origin": "https://a.example"})
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("name", ["/etc/passwd", "../tiny", "file:///tmp", "tiny/../tiny", "Salesforce/codegen-350M"])
def test_S16_requests_choose_no_files(name: str, model: Model) -> None:
    with serving(model) as client:
        answer = client.post("/v1/completions", json=SOUND | {"model": name})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
        fields = {"model_path": name, "tokenizer": name, "lora": name, "grammar_file": name}
        answer = client.post("/v1/completions", json=SOUND | fields)
        assert answer.status_code == 200
        assert sorted(answer.headers["x-ignored-fields"].replace(" ", "").split(",")) == sorted(fields)


def test_S22_what_clients_say_is_no_label_of_a_metric(model: Model) -> None:
    with serving(model) as client:

        def series() -> set[str]:
            text: str = client.get("/metrics").text
            return {line.rsplit(" ", 1)[0] for line in text.splitlines() if not line.startswith("#")}

        def ask(number: int) -> None:
            headers = {"X-Client-Id": f"client-{number}", "User-Agent": f"agent-{number}", "Origin": f"http://{number}"}
            client.post("/v1/completions", json=SOUND | {"user": f"user-{number}", "model": "tiny"}, headers=headers)
            client.post("/v1/completions", json=SOUND | {"model": f"model-{number}"}, headers=headers)
            client.get(f"/path-{number}", headers=headers)

        ask(0)
        before = series()
        for number in range(1, 6):
            ask(number)
        assert series() == before


def test_S23_forwarded_addresses_and_hosts_change_nothing(model: Model) -> None:
    forged = {
        "X-Forwarded-For": "127.0.0.1",
        "X-Forwarded-Host": "localhost",
        "X-Forwarded-Proto": "https",
        "Forwarded": "for=127.0.0.1;host=localhost",
        "X-Real-Ip": "127.0.0.1",
    }
    with serving(model) as client:
        assert client.get("/version", headers={"Host": "evil.example", **forged}).status_code == 403
    with serving(model, api_keys=("secret-key",)) as client:
        assert client.get("/v1/models", headers=forged).status_code == 401


def test_S21_killed_server_leaves_its_port_and_bundle_free(tiny_bundle: Bundle) -> None:
    with running(tiny_bundle) as (url, process):
        httpx.get(f"{url}/health")
        process.kill()
        assert process.wait(PATIENCE_SECONDS) == -signal.SIGKILL
    with running(tiny_bundle, "--port", url.rsplit(":", 1)[1]) as (again, _):
        assert again == url
        assert httpx.post(f"{url}/v1/completions", json=SOUND, timeout=PATIENCE_SECONDS).status_code == 200


@pytest.mark.parametrize("path", ["/v1/completions", "/completion", "/infill", "/api/generate", "/v1/chat/completions"])
@pytest.mark.parametrize("is_streamed", [False, True])
def test_S01_half_a_surrogate_pair_is_no_text(path: str, is_streamed: bool, model: Model) -> None:
    half = r"\ud83d"
    rest = f'"max_tokens": 2, "n_predict": 2, "stream": {str(is_streamed).lower()}'
    body = f'{{"prompt": "x", "stop": ["a{half}"], {rest}}}'
    with serving(model) as client:
        answer = client.post(path, content=body)
        assert answer.status_code == 400
        assert "surrogate" in answer.text
        whole = body.replace(half, half + r"\ude00")
        if path in ("/v1/completions", "/completion"):
            answer = client.post(path, content=whole)
            assert answer.status_code == 200
            assert "server_error" not in answer.text
