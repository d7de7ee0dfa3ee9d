"""Who may ask, under which name, and how much at once: in front of every handler, as plain ASGI."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from codegen_edge.server.http.errors import ApiError
from codegen_edge.server.http.settings import ServerSettings

PUBLIC_PATHS = frozenset(
    {"/", "/page/app.js", "/page/style.css", "/favicon.svg", "/health", "/v1/health", "/live", "/ready", "/version"}
)
"""Answered without a key: they tell nothing of prompts or models."""

PROBED_PATHS = frozenset({"/health", "/live", "/ready"})
"""Answered under any name: what watches a server may know it by its address only."""

_CSP = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
_CORS_METHODS, _CORS_HEADERS = "GET, POST, OPTIONS", "Authorization, Content-Type, X-Api-Key, X-Client-Id"


def given_key(scope: Scope) -> str | None:
    """The key of a request: `Authorization: Bearer KEY` or `X-Api-Key: KEY`."""
    headers = Headers(scope=scope)
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value:
        return value.strip()
    return headers.get("x-api-key")


class Guard:
    """Checks host, origin, key and size before the app is asked.

    Args:
        app: the app.
        settings: what is allowed.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._settings = settings
        self._hosts = settings.answered_hosts
        self._keys = [key.encode() for key in settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As an ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        origin = self._allowed_origin(scope)
        answering = _with_headers(send, self._fixed_headers(scope, origin))
        try:
            self._check_host(scope)
            if scope["method"] == "OPTIONS" and origin is not None:
                await _no_content(answering)
                return
            if scope["path"] not in PUBLIC_PATHS:
                self._check_key(scope)
            self._check_length(scope)
        except ApiError as exc:
            await exc.response()(scope, receive, answering)
            return
        await self._app(scope, self._limited(receive), answering)

    def _fixed_headers(self, scope: Scope, origin: str | None) -> dict[str, str]:
        headers = {
            "Content-Security-Policy": _CSP,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }
        if origin is not None:
            headers |= {
                "Access-Control-Allow-Origin": origin,
                "Access-Control-Allow-Methods": _CORS_METHODS,
                "Access-Control-Allow-Headers": _CORS_HEADERS,
                "Vary": "Origin",
            }
        return headers

    def _allowed_origin(self, scope: Scope) -> str | None:
        origin = Headers(scope=scope).get("origin")
        return origin if origin in self._settings.cors_origins else None

    def _check_host(self, scope: Scope) -> None:
        host = Headers(scope=scope).get("host", "")
        name = host[1 : host.index("]")] if host.startswith("[") and "]" in host else host.rsplit(":", 1)[0]
        if self._hosts is not None and scope["path"] not in PROBED_PATHS and name.lower() not in self._hosts:
            raise ApiError(403, f"the host {name[:100]!r} is not answered", kind="permission_error", code="host")

    def _check_key(self, scope: Scope) -> None:
        if not self._keys:
            return
        key = (given_key(scope) or "").encode("utf-8", errors="replace")
        # All are compared, each in constant time.
        matches = [hmac.compare_digest(key, known) for known in self._keys]
        if not any(matches):
            raise ApiError(
                401,
                "a valid API key is needed: Authorization: Bearer KEY",
                kind="authentication_error",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _check_length(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        length = headers.get("content-length", "")
        if length and "transfer-encoding" in headers:
            # A proxy may read the one and this server the other: two requests where it saw one (RFC 9112, 6.1).
            raise ApiError(
                400,
                "a body has a Content-Length or a Transfer-Encoding, not both",
                code="invalid_request",
                headers={"Connection": "close"},
            )
        if length.isascii() and length.isdecimal() and int(length) > self._settings.max_body_bytes:
            raise self._too_large()

    def _too_large(self) -> ApiError:
        return ApiError(
            413,
            f"the body is larger than {self._settings.max_body_bytes} bytes",
            code="request_too_large",
            headers={"Connection": "close"},
        )

    def _limited(self, receive: Receive) -> Receive:
        """A body without a length is counted while it comes."""
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._settings.max_body_bytes:
                raise self._too_large()
            return message

        return limited


def _with_headers(send: Send, headers: Mapping[str, str]) -> Send:
    async def answering(message: Any) -> None:
        if message["type"] == "http.response.start":
            known = MutableHeaders(scope=message)
            for name, value in headers.items():
                known.setdefault(name, value)
        await send(message)

    return answering


async def _no_content(send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})
