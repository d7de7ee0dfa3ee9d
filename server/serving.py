"""From bundles to a running server: opened models, memory that fits, signals, and an end that loses no answer."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from codegen_edge.errors import InvalidInputError
from codegen_edge.generation.model import Model
from codegen_edge.runtimes.backends.ort_cpu import rows_meet
from codegen_edge.server.engine import EngineSettings
from codegen_edge.server.engine.sizing import Memory, bytes_per_token, free_memory, plan_memory
from codegen_edge.server.http import ServedModel, ServerSettings, create_app
from codegen_edge.server.http.protocol import protocol_with_limit

_LINGER_SECONDS = 1.0  # between "not ready" and the end of listening: balancers see it
_BACKLOG = 2048
_KEEP_ALIVE_SECONDS = 5

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """How every model's runtime is shared.

    Attributes:
        slots: of each model; None takes as many as fit.
        max_queued, max_queued_tokens: jobs that wait, and their prompt tokens.
        max_step_seconds: about how long a step may take that reads prompts beside rows that decode.
        prefix_bytes: for prompts that are kept, of each model.
        is_drafting: whether prompt lookup drafts for a row that is alone.
    """

    slots: int | None = None
    max_queued: int = 32
    max_queued_tokens: int = 65_536
    max_step_seconds: float = 0.1
    prefix_bytes: int = 512 << 20
    is_drafting: bool = False


def serve_model(model: Model, sharing: Sharing, *, free_bytes: int | None) -> tuple[ServedModel, Memory]:
    """A model with its engine, named after its bundle's folder.

    Args:
        model: opened.
        sharing: of its runtime.
        free_bytes: memory that its slots and prefixes may take; None where it is not known.

    Raises:
        InvalidInputError: the slots do not fit; or the bundle's rows meet, and more than one slot was asked for.
    """
    memory = plan_memory(model.bundle, sharing.slots, sharing.prefix_bytes, free_bytes)
    if memory.slots > 1 and rows_meet(model.bundle):
        raise InvalidInputError(
            f"{model.bundle.path}: what a row of this int8-dynamic graph generates depends on the rows beside it; "
            "serve it with one slot, or quantize the fp32 bundle again",
            hint="--slots 1",
        )
    settings = EngineSettings(
        slots=memory.slots,
        max_queued=sharing.max_queued,
        max_queued_tokens=sharing.max_queued_tokens,
        max_step_seconds=sharing.max_step_seconds,
        prefix_bytes=sharing.prefix_bytes,
        bytes_per_token=bytes_per_token(model.bundle),
        is_drafting=sharing.is_drafting,
    )
    return ServedModel(served_name(model.bundle.path), model, settings), memory


def served_name(path: Path) -> str:
    """The name of a bundle's folder."""
    return Path(path).resolve().name or "model"


class Server:
    """A server in this process.

    Args:
        models: to serve.
        sharing: of their runtimes.
        settings: of the HTTP layer.
        tell: called with a line of text about what happens.

    Raises:
        InvalidInputError: what is asked for does not fit, or two bundles have one name.
    """

    def __init__(
        self, models: Sequence[Model], sharing: Sharing, settings: ServerSettings, *, tell: Tell = lambda line: None
    ) -> None:
        free_bytes = free_memory()
        served = []
        for model in models:
            each, memory = serve_model(model, sharing, free_bytes=free_bytes)
            served.append(each)
            tell(f"{each.name}: {memory.arithmetic}")
            if free_bytes is not None:
                free_bytes -= memory.slots * memory.bytes_per_slot + memory.prefix_bytes
        self._settings = settings
        self._tell = tell
        self._served = served
        self._app = create_app(served, settings)

    async def run(self, *, on_listening: Callable[[str], None] = lambda url: None) -> None:
        """Serve until SIGTERM or SIGINT.

        The first signal stops new requests and lets those that run end, for `drain_seconds` at most; a second one
        cancels them.

        Raises:
            InvalidInputError: the address cannot be listened on.
        """
        listening = _listen(self._settings.host, self._settings.port)
        config = uvicorn.Config(
            self._app,
            log_config=None,  # as the process logs
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            http=protocol_with_limit(self._settings.header_seconds),
            proxy_headers=False,
            ws="none",
            lifespan="on",
            backlog=_BACKLOG,
        )
        server = _Server(config)
        stopping = asyncio.Event()
        is_asked_again = asyncio.Event()

        def on_signal() -> None:
            if stopping.is_set():
                is_asked_again.set()
            stopping.set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        draining = asyncio.create_task(self._drain_when(stopping, is_asked_again, server))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if server.started:
            host, port = listening.getsockname()[:2]
            on_listening(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        try:
            await serving
        finally:
            draining.cancel()
            listening.close()

    async def _drain_when(self, stopping: asyncio.Event, is_asked_again: asyncio.Event, server: _Server) -> None:
        await stopping.wait()
        try:
            self._say("shutting down: no new requests are taken")
            state: Any = self._app
            state.state.is_draining = True
            waiting = [asyncio.to_thread(each.engine.drain, self._settings.drain_seconds) for each in self._served]
            drained = asyncio.create_task(_all(waiting))
            again = asyncio.create_task(is_asked_again.wait())
            await asyncio.wait({drained, again}, return_when=asyncio.FIRST_COMPLETED)
            if not drained.done() or not drained.result():
                self._say("running requests are cancelled")
            for each in self._served:
                await asyncio.to_thread(each.engine.stop)
            if not again.done():
                await asyncio.sleep(_LINGER_SECONDS)
            again.cancel()
        finally:
            server.should_exit = True  # whatever happens: a signal ends the process

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # nobody reads it any more
            self._tell(line)


async def _all(waiting: Sequence[Awaitable[bool]]) -> bool:
    return all(await asyncio.gather(*waiting))


class _Server(uvicorn.Server):
    """uvicorn's server, without its own signal handlers: they would close the sockets first."""

    def capture_signals(self) -> Any:
        """Ours are installed."""
        return contextlib.nullcontext()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as exc:
        raise InvalidInputError(f"{host} port {port} cannot be listened on: {exc.strerror or exc}") from exc
    listening.setblocking(False)
    return listening


def with_key_file(settings: dict[str, Any], path: Path | None) -> ServerSettings:
    """Settings with the keys of a file, one a line; blank lines and lines that begin with # are left out.

    Raises:
        InvalidInputError: the file holds no key, or cannot be read.
    """
    if path is None:
        return ServerSettings(**settings)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidInputError(f"{path} cannot be read: {exc}") from exc
    keys = tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    if not keys:
        raise InvalidInputError(f"{path} holds no key")
    return ServerSettings(**settings, api_keys=keys)
