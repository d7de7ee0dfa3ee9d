"""A server on a small model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from codegen_edge.bundle import Bundle
from codegen_edge.generation.model import Model, load_model
from tests.server.dialects.recorded import serving


@pytest.fixture(scope="session")
def model(tiny_bundle: Bundle) -> Iterator[Model]:
    with load_model(tiny_bundle.path, check="size", exact_steps=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(model: Model) -> Iterator[TestClient]:
    with serving(model) as opened:
        yield opened
