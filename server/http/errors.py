"""Errors as OpenAI's clients expect them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from codegen_edge.errors import CancelledError, CodegenEdgeError, ContextLengthError, InvalidInputError
from codegen_edge.server.engine import DrainingError, EngineDeadError, QueueFullError

_RESTART_SECONDS = 5.0


class ApiError(Exception):
    """An answer that is no completion.

    Args:
        status: of HTTP.
        message: one line for a person.
        kind: OpenAI's `type`.
        code: for programs, or None.
        param: the field that is wrong, or None.
        headers: more of them.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.kind, self.code, self.param = kind, code, param
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's form."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """As an answer."""
        return JSONResponse(self.body, self.status, headers=self.headers)


def bad_request(message: str, param: str | None = None, *, code: str | None = None) -> ApiError:
    """400: the client can mend it."""
    return ApiError(400, message, param=param, code=code)


def as_api_error(error: BaseException) -> ApiError:
    """Whatever went wrong, as an answer."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, InvalidInputError):
        if isinstance(error, ContextLengthError):
            return bad_request(str(error), "prompt", code="context_length_exceeded")
        return bad_request(str(error))
    return _server_error(error)


def _server_error(error: BaseException) -> ApiError:
    kind, code, headers = "server_error", None, {"x-should-retry": "false"}
    # Of what is not ours nothing is told: it may hold paths, or a part of somebody's prompt.
    status, message = 500, "something unexpected went wrong; the server's log has it"
    if isinstance(error, CodegenEdgeError):
        message = " ".join(str(error).split())
    match error:
        case QueueFullError():
            status, kind, code = 429, "rate_limit_error", "queue_full"
            message, headers = f"the server is busy: {error}; try again later", retry_headers(error.retry_after)
        case DrainingError():
            status, code, message, headers = 503, "draining", str(error), retry_headers(_RESTART_SECONDS)
        case EngineDeadError():
            status, code, message = 503, "engine_dead", str(error)
        case CancelledError():
            status, kind, code = 499, "cancelled", "cancelled"
            message = "the request was cancelled: by a newer one of the same client, or because the server shuts down"
        case _:
            headers = {}
    return ApiError(status, message, kind=kind, code=code, headers=headers)


def retry_headers(seconds: float) -> dict[str, str]:
    """When to try again, in the forms that clients read."""
    return {"Retry-After": str(max(1, math.ceil(seconds))), "retry-after-ms": str(int(1000 * max(1.0, seconds)))}
