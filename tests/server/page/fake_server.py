"""The page and a scripted API behind it: what a model answers, in which pieces, and when."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from codegen_edge.server.page import page_files

POLICY = "default-src 'self'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token of a scripted answer.

    Attributes:
        piece: what the token adds to the text; "" for the first bytes of a character.
        text: the token as the API names it, where that is not `piece`.
    """

    piece: str
    logprob: float | None = -0.05
    top: Mapping[str, float] = field(default_factory=dict)
    text: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What a model answers.

    Attributes:
        gates: by the index of a token: an event that the server waits for before it sends the token.
        status: other than 200 the answer is an error with `message`.
        message: with status 200 an error in the stream, after the tokens.
        breaks_off: the stream ends without its end.
    """

    tokens: Sequence[Token] = ()
    gates: Mapping[int, threading.Event] = field(default_factory=dict)
    finish: str = "length"
    offset: int = 0
    status: int = 200
    message: str = ""
    retry_after: int | None = None
    breaks_off: bool = False


def plain(*pieces: str, **options: Any) -> Script:
    """An answer of these pieces, a token each."""
    return Script(tokens=[Token(piece=piece) for piece in pieces], **options)


class _Http(ThreadingHTTPServer):
    """Ends every connection when it closes: a browser keeps some open that it may need, and asks nothing on them."""

    daemon_threads = False  # `server_close` waits for them

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a browser that went away
            super().handle_error(request, client_address)


class FakeServer:
    """Serves the page and answers completions by script; records what was asked.

    Attributes:
        scripts: by model.
        requests: the bodies of the completions asked for, in order.
        authorizations: the Authorization header of each request to the API.
        disconnected: set once a client went away in the middle of a stream.
        api_key: answers 401 to requests without it.
    """

    def __init__(self, models: Sequence[Mapping[str, Any]], scripts: Mapping[str, Script]) -> None:
        self.models = list(models)
        self.scripts = dict(scripts)
        self.requests: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        self.disconnected = threading.Event()
        self.is_closing = threading.Event()
        self.api_key: str | None = None
        self.files = page_files()
        fake = self

        class Bound(_Handler):
            server_state = fake

        self._http = _Http(Bound)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.is_closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    server_state: FakeServer

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            if self._is_allowed():
                self._answer(200, {"object": "list", "data": self.server_state.models})
        elif self.path in self.server_state.files:
            self._send(200, *self.server_state.files[self.path])
        else:
            self._answer(404, _error(f"no such path: {self.path}"))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._is_allowed():
            return
        self.server_state.requests.append(body)
        script = self.server_state.scripts[body["model"]]
        if script.status != 200:
            wait = {} if script.retry_after is None else {"Retry-After": str(script.retry_after)}
            self._answer(script.status, _error(script.message), wait)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            self._stream(script, body)
        except OSError:
            self.server_state.disconnected.set()

    def _stream(self, script: Script, body: Mapping[str, Any]) -> None:
        for index, chunk in enumerate(_chunks(script, with_logprobs="logprobs" in body)):
            gate = script.gates.get(index)
            while gate and not gate.wait(0.02):
                self.wfile.write(b": ping\n\n")
                if self.server_state.is_closing.is_set():
                    return
            self._event(chunk)
        if script.message:
            self._event(_error(script.message))
        elif not script.breaks_off:
            count = len(script.tokens)
            usage = {"prompt_tokens": 7, "completion_tokens": count, "total_tokens": 7 + count}
            self._event({"choices": [], "usage": usage})
            self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, chunk: Mapping[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())

    def _is_allowed(self) -> bool:
        given = self.headers["Authorization"]
        self.server_state.authorizations.append(given)
        allowed = self.server_state.api_key in (None, (given or "").removeprefix("Bearer "))
        if not allowed:
            self._answer(401, _error("This server needs an API key."))
        return allowed

    def _answer(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        self._send(status, json.dumps(body).encode(), "application/json", headers)

    def _send(self, status: int, content: bytes, media_type: str, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        fixed = {"Content-Type": media_type, "Content-Length": str(len(content)), "Content-Security-Policy": POLICY}
        for name, value in {**fixed, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}


def _chunks(script: Script, *, with_logprobs: bool) -> Iterator[dict[str, Any]]:
    position = script.offset
    for token in script.tokens:
        logprobs = {
            "tokens": [token.piece if token.text is None else token.text],
            "token_logprobs": [token.logprob],
            "top_logprobs": [dict(token.top)],
            "text_offset": [position],
        }
        yield _choice(token.piece, logprobs if with_logprobs else None)
        position += len(token.piece)
    if not script.message and not script.breaks_off:
        yield _choice("", None, script.finish)


def _choice(text: str, logprobs: dict[str, Any] | None, finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish}
    return {"choices": [choice], "usage": None}
