"""Requests as clients send them, recorded from their sources, and a server in the test's own process."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.testclient import TestClient

from codegen_edge.generation.model import Model
from codegen_edge.server.engine import EngineSettings
from codegen_edge.server.engine.sizing import bytes_per_token
from codegen_edge.server.http import ServedModel, ServerSettings, create_app

FIXTURES = Path(__file__).parent / "fixtures"
SLOTS = 4
PATIENCE_SECONDS = 20.0


def served_as(name: str, model: Model, *, slots: int = SLOTS) -> ServedModel:
    """A model with an engine of its own."""
    settings = EngineSettings(slots=slots, bytes_per_token=bytes_per_token(model.bundle), prefix_bytes=8 << 20)
    return ServedModel(name, model, settings)


@contextmanager
def serving(model: Model, *, slots: int = SLOTS, **settings: Any) -> Iterator[TestClient]:
    app = create_app([served_as("tiny", model, slots=slots)], ServerSettings(**settings))
    with TestClient(app, base_url="http://localhost") as client:
        yield client


@contextmanager
def listening(model: Model, *, send_buffer_bytes: int | None = None, **settings: Any) -> Iterator[str]:
    """A server on a socket, whose connections buffer so much on this side; gives its URL."""
    app = create_app([served_as("tiny", model)], ServerSettings(**settings))
    config = uvicorn.Config(app, log_level="error", lifespan="on", ws="none")
    with on_a_socket(config, send_buffer_bytes=send_buffer_bytes) as (host, port):
        yield f"http://{host}:{port}"


@contextmanager
def on_a_socket(config: uvicorn.Config, *, send_buffer_bytes: int | None = None) -> Iterator[tuple[str, int]]:
    """A server in a thread, on a socket whose address it gives."""
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if send_buffer_bytes is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        until = time.monotonic() + PATIENCE_SECONDS
        while not server.started:
            assert time.monotonic() < until
            time.sleep(0.01)
        try:
            yield listener.getsockname()
        finally:
            server.should_exit = True
            thread.join()


def recorded(name: str) -> dict[str, Any]:
    """A client's request: source, method, path, headers and body."""
    found: dict[str, Any] = json.loads((FIXTURES / f"{name}.json").read_text())
    return found


def send(client: TestClient, name: str, **changed: Any) -> Any:
    """Send a recorded request, with some fields of its body changed; None leaves one out."""
    asked = recorded(name)
    body = {key: value for key, value in (asked.get("body", {}) | changed).items() if value is not None}
    return client.request(
        asked["method"], asked["path"], headers=asked["headers"], json=body if "body" in asked else None
    )


def answered(client: TestClient, name: str, **changed: Any) -> Any:
    """The JSON of the answer to a recorded request."""
    answer = send(client, name, **changed)
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(text: str) -> list[Any]:
    """The objects of an event stream, in order; [DONE] as a string."""
    lines = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


@contextmanager
def slow_steps(monkeypatch: pytest.MonkeyPatch, model: Model, seconds: float) -> Iterator[None]:
    """Make every step take so long, so that a completion is still running when the next request comes."""
    step: Callable[..., Any] = model.runtime.step

    def slow(*args: Any, **options: Any) -> Any:
        time.sleep(seconds)
        return step(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(model.runtime, "step", slow)
        yield


def wait_until_busy(client: TestClient) -> None:
    """Until a slot is taken."""
    until = time.monotonic() + PATIENCE_SECONDS
    while not any(slot["is_processing"] for slot in client.get("/slots").json()):
        assert time.monotonic() < until
        time.sleep(0.01)
