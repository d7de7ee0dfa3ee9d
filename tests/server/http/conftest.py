"""A server in the test's own process, on a small model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from starlette.testclient import TestClient

from codegen_edge.bundle import Bundle
from codegen_edge.generation.model import Model, load_model
from codegen_edge.server.engine import EngineSettings
from codegen_edge.server.engine.sizing import bytes_per_token
from codegen_edge.server.http import ServedModel, ServerSettings, create_app

Serve = Callable[..., Any]


@pytest.fixture(scope="session")
def model(trained_bundle: Bundle) -> Iterator[Model]:
    with load_model(trained_bundle.path, check="size", exact_steps=True) as opened:
        yield opened


@contextmanager
def serving(
    model: Model, *, slots: int = 4, engine: dict[str, Any] | None = None, **settings: Any
) -> Iterator[TestClient]:
    options = {"bytes_per_token": bytes_per_token(model.bundle), "prefix_bytes": 64 << 20, **(engine or {})}
    served = ServedModel("codegen", model, EngineSettings(slots=slots, **options))
    with TestClient(create_app([served], ServerSettings(**settings)), base_url="http://localhost") as client:
        yield client


@pytest.fixture(scope="module")
def client(model: Model) -> Iterator[TestClient]:
    with serving(model) as opened:
        yield opened
