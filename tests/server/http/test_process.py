"""A server in a process of its own, over real sockets: clients that vanish, signals, the `openai` package."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from codegen_edge.bundle import Bundle
from codegen_edge.generation.model import Model

PROMPT = "def add(a, b):\n    "
CODE = "import sys; sys.argv[0] = 'codegen-edge'; from codegen_edge.cli import main; main()"


@contextmanager
def running(bundle: Bundle, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [sys.executable, "-c", CODE, "serve", str(bundle.path), "--port", "0", "--check", "size", *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        lines = []
        try:
            for line in process.stderr:
                lines.append(line)
                if "listening on" in line:
                    break
            else:
                raise AssertionError("".join(lines))
            yield line.split()[-1], process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def url(trained_bundle: Bundle) -> Iterator[str]:
    with running(trained_bundle, "--slots", "2", "--queue", "2") as (address, _):
        yield address


def state(url: str) -> tuple[int, int]:
    text = httpx.get(f"{url}/metrics").text
    found = [re.findall(rf"num_requests_{name}{{.*}} (\S+)", text)[0] for name in ("running", "waiting")]
    return int(float(found[0])), int(float(found[1]))


def wait_for(url: str, expected: tuple[int, int], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while state(url) != expected:
        assert time.monotonic() < until, f"{state(url)} instead of {expected}"
        time.sleep(0.02)


def connect(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def request(**body: Any) -> bytes:
    raw = json.dumps({"prompt": PROMPT, "temperature": 0} | body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(raw)}\r\n\r\n"
    return head.encode() + raw


LONG: dict[str, Any] = {"max_tokens": 1500, "ignore_eos": True}


@pytest.mark.parametrize("is_streamed", [True, False])
def test_client_that_vanishes_frees_its_slot(url: str, is_streamed: bool) -> None:
    wait_for(url, (0, 0))
    client = connect(url)
    client.sendall(request(**LONG, stream=is_streamed))
    wait_for(url, (1, 0))
    client.close()
    wait_for(url, (0, 0), seconds=5)


def test_client_that_vanishes_in_the_queue_cancels_nobody_else(url: str) -> None:
    wait_for(url, (0, 0))
    clients = []
    for count, expected in enumerate([(1, 0), (2, 0), (2, 1)]):
        clients.append(connect(url))
        clients[count].sendall(request(**LONG, stream=True))
        wait_for(url, expected)
    clients[2].close()
    wait_for(url, (2, 0), seconds=5)
    for client in clients[:2]:
        client.close()
    wait_for(url, (0, 0), seconds=5)


def test_more_than_the_queue_holds_is_429_with_a_time(url: str) -> None:
    wait_for(url, (0, 0))
    clients = []
    for expected in [(1, 0), (2, 0), (2, 1), (2, 2)]:
        clients.append(connect(url))
        clients[-1].sendall(request(**LONG, stream=True))
        wait_for(url, expected)
    answer = httpx.post(f"{url}/v1/completions", json={"prompt": PROMPT, "max_tokens": 1})
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"]["code"] == "queue_full"
    for client in clients:
        client.close()
    wait_for(url, (0, 0), seconds=5)


def test_many_idle_connections_and_half_a_request_block_nobody(url: str) -> None:
    idle = [connect(url) for _ in range(200)]
    half = connect(url)
    half.sendall(request(max_tokens=4)[:-5])
    assert httpx.get(f"{url}/health", timeout=5).status_code == 200
    answer = httpx.post(f"{url}/v1/completions", json={"prompt": PROMPT, "max_tokens": 2}, timeout=30)
    assert answer.status_code == 200
    for each in (*idle, half):
        each.close()


def test_openai_package_gets_what_the_model_gives(url: str, trained_bundle: Bundle, model: Model) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    name = client.models.list().data[0].id
    expected = model.generate(PROMPT, max_new_tokens=12).text
    whole = client.completions.create(model=name, prompt=PROMPT, max_tokens=12, temperature=0, logprobs=2)
    assert whole.choices[0].text == expected
    assert len(whole.choices[0].logprobs.tokens) == 12
    pieces = client.completions.create(model=name, prompt=PROMPT, max_tokens=12, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in pieces) == expected
    messages = [{"role": "user", "content": PROMPT}]
    chat = client.chat.completions.create(model=name, messages=messages, max_tokens=12, temperature=0)
    assert chat.choices[0].message.content == expected
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="other", prompt="x")
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.completions.create(model=name, prompt="x", temperature=5)
    client.close()


def test_openai_package_tries_again_when_the_queue_was_full(url: str) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=8)
    name = client.models.list().data[0].id

    def ask(number: int) -> int:
        answer = client.completions.create(model=name, prompt=f"{PROMPT}# {number}\n", max_tokens=150, temperature=0)
        return int(answer.usage.completion_tokens)

    with ThreadPoolExecutor(10) as pool:
        assert all(pool.map(ask, range(10)))
    client.close()


def test_terminated_server_ends_what_runs_and_takes_nothing_new(trained_bundle: Bundle) -> None:
    with running(trained_bundle) as (url, process), connect(url) as client:
        client.sendall(request(**LONG | {"max_tokens": 1000}, stream=True))
        wait_for(url, (1, 0))
        process.send_signal(signal.SIGTERM)
        until = time.monotonic() + 10
        while httpx.get(f"{url}/ready").status_code != 503:
            assert time.monotonic() < until
        refused = httpx.post(f"{url}/v1/completions", json={"prompt": PROMPT})
        assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
        received = b""
        while chunk := client.recv(65536):
            received += chunk
            if b"[DONE]" in received:
                break
        assert b'"finish_reason":"length"' in received
        assert process.wait(20) == 0


@pytest.mark.quiet
def test_second_signal_cancels_what_runs(trained_bundle: Bundle) -> None:
    with running(trained_bundle) as (url, process), connect(url) as client:
        client.sendall(request(**LONG, stream=True))
        wait_for(url, (1, 0))
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        started_at = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert time.monotonic() - started_at < 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "can be reached by others"),
        (["--slots", "100000"], "the slots do not fit"),
        (["--slots", "none"], "auto or a number"),
        (["--api-key-file", "/nowhere"], "cannot be read"),
        (["--max-step-ms", "0"], "max_step_seconds"),
    ],
)
def test_server_that_cannot_be_is_refused_at_the_start(
    options: list[str], message: str, trained_bundle: Bundle
) -> None:
    with pytest.raises(AssertionError, match=message), running(trained_bundle, *options):
        pass


def test_server_ends_though_nobody_reads_what_it_says(trained_bundle: Bundle) -> None:
    with running(trained_bundle) as (url, process):
        assert httpx.get(f"{url}/live").status_code == 200
        assert process.stderr is not None
        process.stderr.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_server_answers_though_nobody_reads_its_log(trained_bundle: Bundle) -> None:
    body = {"prompt": "x = " * 500, "max_tokens": 1, "temperature": 0, "prompt_overflow": "cut-left"}
    with running(trained_bundle, "--log-prompts") as (url, process), httpx.Client(base_url=url, timeout=10) as client:
        for _ in range(80):  # 2 kB of log each, where a pipe holds 64
            assert client.post("/v1/completions", json=body | {"prompt": "x = " * 100}).status_code == 200
            client.post("/v1/completions", json=body)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_client_that_vanishes_while_its_body_is_read_leaves_no_trace(trained_bundle: Bundle) -> None:
    with running(trained_bundle) as (url, process):
        host, port = url.removeprefix("http://").split(":")
        for sent in (b"", b'{"prompt": "x"'):
            for _ in range(5):
                with socket.create_connection((host, int(port)), timeout=5) as client:
                    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
                    client.sendall(head + sent)
                    time.sleep(0.05)
        assert httpx.post(f"{url}/v1/completions", json={"prompt": "x", "max_tokens": 1}).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
