"""Every recorded request says where it comes from, and is answered."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from codegen_edge.server.dialects import dialect_routes
from tests.server.dialects.recorded import FIXTURES, recorded, send

NAMES = sorted(path.stem for path in FIXTURES.glob("*.json"))


@pytest.mark.parametrize("name", NAMES)
def test_recorded_request_is_answered(client: TestClient, name: str) -> None:
    asked = recorded(name)
    assert len(asked["source"]) > 10
    assert send(client, name).status_code == 200


def test_every_dialect_has_a_recorded_request() -> None:
    asked = {recorded(name)["path"] for name in NAMES}
    unasked = {route.path for route in dialect_routes()} - asked
    assert unasked == {
        "/v1/engines/{engine}/completions",  # by their names
        "/completions",  # the same as /completion
        "/fim/completions",  # the same as /v1/fim/completions
        "/props",
        "/slots",
        "/lora-adapters",
    }
