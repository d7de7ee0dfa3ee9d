"""What all handlers share."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any, cast

from starlette.requests import Request

from codegen_edge.errors import CodegenEdgeError
from codegen_edge.server.engine import DrainingError
from codegen_edge.server.http.completions_request import Caller
from codegen_edge.server.http.errors import ApiError, as_api_error, bad_request
from codegen_edge.server.http.grammars import GrammarThreads
from codegen_edge.server.http.guard import given_key
from codegen_edge.server.http.metrics import Metrics
from codegen_edge.server.http.models import Running, ServedModel
from codegen_edge.server.http.settings import ServerSettings
from codegen_edge.server.http.wanted import Wanted

LOG = logging.getLogger("codegen_edge.server")
_CLIENT_HEADER = "x-client-id"
_DEEPEST = 32  # of a JSON body


class AppState:
    """The models, the settings and the metrics of an app.

    Args:
        models: by every name that clients may use.
        settings: of the HTTP layer.
        metrics: that are counted.
    """

    def __init__(self, models: Mapping[str, ServedModel], settings: ServerSettings, metrics: Metrics) -> None:
        self.models = dict(models)
        self.settings = settings
        self.metrics = metrics
        self.is_draining = False
        self._grammars = GrammarThreads()

    @property
    def served(self) -> list[ServedModel]:
        """Every model once."""
        return list({id(each): each for each in self.models.values()}.values())

    @staticmethod
    def of(request: Request) -> AppState:
        """The state of the app that a request came to."""
        return cast(AppState, request.app.state.codegen_edge)

    def caller(self, request: Request) -> Caller:
        """Who asks; an editor may name itself, so that its newer request replaces its older one."""
        key = given_key(request.scope) or ""
        client = request.headers.get(_CLIENT_HEADER)
        return Caller(owner=key, client=None if client is None else f"{key}:{client[:128]}")

    async def read_json(self, request: Request) -> Any:
        """The body, after it was seen that there is room for a job at all.

        Raises:
            ApiError: 429 or 503 before anything is read; 400, 408 or 413 for the body.
        """
        self.check_admission(self.caller(request).client)
        try:
            raw = await asyncio.wait_for(request.body(), self.settings.body_seconds)
        except TimeoutError:
            raise ApiError(408, "the body did not arrive in time", code="request_timeout") from None
        try:
            body = json.loads(raw)
            if b"\\ud" in raw.lower():  # only an escape can bring half of a surrogate pair in
                json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError as exc:
            raise bad_request("a text in the body holds half of a surrogate pair, which is no character") from exc
        except (ValueError, RecursionError) as exc:
            raise bad_request(f"the body is no JSON: {' '.join(str(exc).split())[:200]}") from exc
        if self.settings.logs_prompts:
            LOG.info("body %s", json.dumps(body)[:2000])
        return body

    def check_admission(self, client: str | None = None) -> None:
        """Refuse early where no model can take a job."""
        if self.is_draining:
            raise as_api_error(DrainingError("the server is shutting down"))
        refused: list[CodegenEdgeError] = []
        for served in self.served:
            try:
                served.engine.check_admission(client)
            except CodegenEdgeError as exc:
                refused.append(exc)
        if len(refused) == len(self.served):
            error = as_api_error(refused[0])
            self.metrics.count_rejection(error.code or "other")
            raise error

    async def submit(self, wanted: Wanted) -> Running:
        """Compile a request's grammar, if it has one, and queue its job.

        Raises:
            ApiError: it cannot be taken.
        """
        try:
            job, served = wanted.job, wanted.served
            if wanted.grammar is not None:
                job = await self._grammars.constrained(job, wanted.grammar, served.model.tokenizer)
            return served.submit(job)
        except CodegenEdgeError as exc:
            error = as_api_error(exc)
            if error.status != 400:
                self.metrics.count_rejection(error.code or "other")
            raise error from exc

    def count_disconnect(self) -> None:
        """A client went away before its answer was whole."""
        self.metrics.count_disconnect()
