"""The ASGI app."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from codegen_edge.errors import InvalidInputError
from codegen_edge.server.http import admin
from codegen_edge.server.http.completions import chat_complete
from codegen_edge.server.http.errors import ApiError, as_api_error
from codegen_edge.server.http.guard import Guard
from codegen_edge.server.http.metrics import Metrics
from codegen_edge.server.http.models import ServedModel
from codegen_edge.server.http.settings import ServerSettings
from codegen_edge.server.http.state import LOG, AppState
from codegen_edge.server.http.streams import ClientGoneError
from codegen_edge.server.page import page_files


def create_app(models: Sequence[ServedModel], settings: ServerSettings) -> ASGIApp:
    """The server of some models; their engines start and stop with its lifespan.

    Args:
        models: at least one, of different names.
        settings: of the HTTP layer.

    Raises:
        InvalidInputError: no model, or a name twice.
    """
    by_name: dict[str, ServedModel] = {}
    for served in models:
        for name in served.names:
            if name in by_name:
                raise InvalidInputError(f"two models are named {name}; give them folders of different names")
            by_name[name] = served
    if not by_name:
        raise InvalidInputError("no model was given")
    state = AppState(by_name, settings, Metrics(settings.metrics_prefix))
    app = Starlette(
        routes=_routes(),
        lifespan=_lifespan(state),
        exception_handlers={
            ApiError: _answer_error,
            ClientGoneError: _answer_nobody,
            ClientDisconnect: _answer_nobody,  # while its body was read
            HTTPException: _answer_http_error,
            Exception: _answer_error,
        },
    )
    app.state.codegen_edge = state
    guarded = Guard(app, settings)
    guarded.state = state  # type: ignore[attr-defined]  # for the process around it, which drains
    return guarded


def _routes() -> list[Route]:
    # Here: the dialects import modules of this package, which may be what imports this one.
    from codegen_edge.server.dialects import dialect_routes

    return [
        *dialect_routes(),
        Route("/v1/chat/completions", chat_complete, methods=["POST"]),
        Route("/v1/models", admin.list_models),
        Route("/v1/models/{name:path}", admin.show_model),
        Route("/tokenize", admin.tokenize, methods=["POST"]),
        Route("/detokenize", admin.detokenize, methods=["POST"]),
        Route("/health", admin.health),
        Route("/live", admin.health),
        Route("/ready", admin.ready),
        Route("/version", admin.version),
        Route("/metrics", admin.metrics),
        *(Route(path, admin.page) for path in page_files()),
    ]


def _lifespan(state: AppState) -> Any:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        state.metrics.watch(state.served)
        for served in state.served:
            served.start(state.metrics.observe)
        try:
            yield
        finally:
            for served in state.served:
                served.engine.stop()

    return lifespan


async def _answer_error(request: Request, exc: Exception) -> Response:
    if not isinstance(exc, ApiError):
        LOG.error("%s %r", request.method, request.url.path, exc_info=exc)
    return as_api_error(exc).response()


async def _answer_http_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    error = ApiError(exc.status_code, f"{request.method} {request.url.path[:200]}: {exc.detail}", headers=exc.headers)
    return error.response()


async def _answer_nobody(request: Request, exc: Exception) -> Response:
    return Response(status_code=499)
