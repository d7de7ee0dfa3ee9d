"""What surrounds completions: models, tokens, health, metrics, the page."""

from __future__ import annotations

from typing import Any

from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from codegen_edge.dependencies import PROJECT, installed_version
from codegen_edge.errors import InvalidInputError
from codegen_edge.server.http.completions_request import find_model
from codegen_edge.server.http.errors import ApiError, as_api_error
from codegen_edge.server.http.fields import Fields, token_ids
from codegen_edge.server.http.models import ServedModel
from codegen_edge.server.http.state import AppState
from codegen_edge.server.page import page_files

_SILENT_SECONDS = 60.0  # an engine that shows no life for so long is not ready


async def list_models(request: Request) -> Response:
    """GET /v1/models."""
    served = AppState.of(request).served
    return JSONResponse({"object": "list", "data": [_model(each) for each in served]})


async def show_model(request: Request) -> Response:
    """GET /v1/models/{name}."""
    models = AppState.of(request).models
    name = request.path_params["name"]
    if name not in models:
        raise ApiError(404, f"the model {name!r} is not served", code="model_not_found", param="model")
    return JSONResponse(_model(models[name]))


def _model(served: ServedModel) -> dict[str, Any]:
    manifest = served.model.bundle.manifest
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "codegen-edge",
        "root": served.name,
        "parent": None,
        "max_model_len": served.context_length,
        "precision": manifest.precision,
        "kv_cache": manifest.kv_cache,
        "runtime": served.model.runtime.name,
        "exact_steps": bool(getattr(served.model.runtime, "runs_ragged", False)),
    }


async def tokenize(request: Request) -> Response:
    """POST /tokenize: {prompt or content} -> {tokens, count, max_model_len}."""
    state = AppState.of(request)
    fields = Fields(await state.read_json(request))
    served = find_model(fields, state.models)
    text = fields.text("prompt", fields.text("content", ""))
    assert text is not None
    try:
        tokens = served.model.tokenizer.encode(text)
    except InvalidInputError as exc:
        raise as_api_error(exc) from exc
    return JSONResponse({"tokens": tokens, "count": len(tokens), "max_model_len": served.context_length})


async def detokenize(request: Request) -> Response:
    """POST /detokenize: {tokens} -> {prompt, content}."""
    state = AppState.of(request)
    fields = Fields(await state.read_json(request))
    served = find_model(fields, state.models)
    tokens = fields.get("tokens", [])
    if not isinstance(tokens, list):
        raise ApiError(400, "tokens must be a list of token ids", param="tokens")
    text = served.model.tokenizer.decode(token_ids(tokens, "tokens", served.model.tokenizer.vocab_size))
    return JSONResponse({"prompt": text, "content": text})


async def health(request: Request) -> Response:
    """GET /health and /live: the process answers, and no engine has failed; one that has needs a new process."""
    failed = [served.name for served in AppState.of(request).served if served.engine.snapshot().has_failed]
    if failed:
        return JSONResponse({"status": "failed", "models": failed}, 503)
    return JSONResponse({"status": "ok"})


async def ready(request: Request) -> Response:
    """GET /ready: every engine shows life and takes jobs."""
    state = AppState.of(request)
    reasons = {served.name: _why_not_ready(served) for served in state.served}
    not_ready = {name: reason for name, reason in reasons.items() if reason}
    if state.is_draining or not_ready:
        reason = "draining" if state.is_draining else "not ready"
        return JSONResponse({"status": reason, "models": not_ready}, 503, headers={"Retry-After": "5"})
    return JSONResponse({"status": "ready"})


def _why_not_ready(served: ServedModel) -> str | None:
    engine = served.engine.snapshot()
    if not engine.is_alive:
        return "the engine has failed"
    if engine.is_draining:
        return "draining"
    if engine.seconds_since_beat > _SILENT_SECONDS:
        return f"no step ended for {engine.seconds_since_beat:.0f} s"
    return None


async def version(request: Request) -> Response:
    """GET /version."""
    return JSONResponse({"version": installed_version(PROJECT)})


async def metrics(request: Request) -> Response:
    """GET /metrics."""
    return Response(generate_latest(AppState.of(request).metrics.registry), media_type=CONTENT_TYPE_LATEST)


async def page(request: Request) -> Response:
    """The page and its files."""
    content, media_type = page_files()[request.url.path]
    return Response(content, media_type=media_type)
