"""Whatever a body holds, a dialect answers 200 or an error in its own form."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from codegen_edge.server.dialects import dialect_routes
from tests.server.dialects.recorded import FIXTURES, recorded

CASES = int(os.environ.get("CODEGEN_EDGE_FUZZ_CASES", "60"))
PATHS = sorted(route.path for route in dialect_routes() if "POST" in (route.methods or ()))
NAMES = sorted({name for path in FIXTURES.glob("*.json") for name in recorded(path.stem).get("body", {})})
LEAVES = st.one_of(
    st.none(),
    st.integers(-3, 30),
    st.sampled_from([2**31, 2**63, -(2**64), 10**30, "tiny", "def f():", "\x00", "\n\n", "é🙂"]),
    st.floats(),
    st.booleans(),
    st.text(max_size=10),
)
INNER = ("max_new_tokens", "num_predict", "temperature", "prefix", "suffix", "text", "filename", "details", "seed")
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(INNER), inner, max_size=3)),
    max_leaves=8,
)
BODIES = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6)


@pytest.mark.parametrize("path", PATHS)
@settings(
    max_examples=CASES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(body=BODIES)
def test_no_body_breaks_the_server(client: TestClient, path: str, body: dict[str, Any]) -> None:
    path = path.replace("{engine}", "codegen")
    body = {"max_tokens": 2, "n_predict": 2} | body
    raw = json.dumps(body).encode("utf-8", errors="surrogatepass")
    answer = client.post(path, content=raw)
    assert answer.status_code in (200, 400, 404), (answer.status_code, answer.text)
    assert '"server_error"' not in answer.text
    if answer.status_code != 200:
        assert answer.json()["error"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("raw", [b"", b"[]", b"3", b'"text"', b"{", b"null", b'{"prompt": "\\ud800"}'])
def test_body_that_is_no_object_is_refused(client: TestClient, path: str, raw: bytes) -> None:
    answer = client.post(path.replace("{engine}", "codegen"), content=raw)
    assert answer.status_code == (200 if path == "/v1/events" else 400) or b"ud800" in raw
    assert answer.status_code < 500
