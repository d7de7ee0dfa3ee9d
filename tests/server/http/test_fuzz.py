"""Whatever a body holds, the answer is 200 or an error that names what is wrong, and the next request is answered."""

from __future__ import annotations

import json
import os
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

CASES = int(os.environ.get("CODEGEN_EDGE_FUZZ_CASES", "60"))
NAMES = (
    *("model", "prompt", "suffix", "max_tokens", "temperature", "top_p", "top_k", "min_p", "n", "best_of", "echo"),
    *("logprobs", "stop", "stream", "stream_options", "seed", "logit_bias", "presence_penalty", "frequency_penalty"),
    *("repetition_penalty", "stop_token_ids", "min_tokens", "ignore_eos", "truncate_prompt_tokens", "user"),
    *("return_token_ids", "request_id", "messages", "max_completion_tokens", "top_logprobs", "tokens", "nothing"),
)
NUMBERS = st.one_of(
    st.integers(-3, 30), st.sampled_from([2**31, 2**63, -(2**64), 10**30]), st.floats(), st.floats(0, 2), st.booleans()
)
LEAVES = st.one_of(st.none(), NUMBERS, st.text(max_size=20), st.sampled_from(["codegen", "def f():", "\x00", "é🙂"]))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=8,
)
BODIES = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6)
PATHS = ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize")
SETTINGS = settings(
    max_examples=CASES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@SETTINGS
@given(path=st.sampled_from(PATHS), body=BODIES)
def test_no_body_breaks_the_server(client: TestClient, path: str, body: dict[str, Any]) -> None:
    body.setdefault("max_tokens", 2)
    raw = json.dumps(body).encode("utf-8", errors="surrogatepass")
    answer = client.post(path, content=raw)
    assert answer.status_code in (200, 400, 404), (answer.status_code, answer.text)
    if answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream"):
        assert answer.text.rstrip().endswith("data: [DONE]")
        assert '"server_error"' not in answer.text
    elif answer.status_code != 200:
        assert answer.json()["error"]["message"]


@SETTINGS
@given(raw=st.binary(max_size=80))
def test_no_bytes_break_the_server(client: TestClient, raw: bytes) -> None:
    assert client.post("/v1/completions", content=raw).status_code in (200, 400)


def test_server_still_answers(client: TestClient) -> None:
    body = {"prompt": "def f():", "max_tokens": 3, "temperature": 0}
    assert client.post("/v1/completions", json=body).json()["usage"]["completion_tokens"] == 3
