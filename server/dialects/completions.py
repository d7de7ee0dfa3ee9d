"""POST /v1/completions, whoever sends it: OpenAI's clients, Tabby's or llm-ls."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from codegen_edge.server.dialects.llm_ls import detailed, is_llm_ls
from codegen_edge.server.dialects.tabby import complete_tabby, is_tabby
from codegen_edge.server.http.completions import complete_body
from codegen_edge.server.http.errors import ApiError
from codegen_edge.server.http.state import AppState


async def complete(request: Request) -> Response:
    """POST /v1/completions."""
    try:
        body = await AppState.of(request).read_json(request)
        if is_tabby(body):
            return await complete_tabby(request, body)
        return await complete_body(request, body)
    except ApiError as exc:
        if is_llm_ls(request):
            return detailed(exc)
        raise
