"""Chat, tokens, models, metrics, keys, hosts and limits."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from codegen_edge.errors import InvalidInputError
from codegen_edge.generation import GenerationParams, TextEvent
from codegen_edge.generation.model import Model
from codegen_edge.server.engine import Job, Piece, Started, Ticket
from codegen_edge.server.http import ServerSettings
from codegen_edge.server.http.metrics import Metrics
from tests.server.http.conftest import serving
from tests.server.http.test_completions import PROMPT, post, stream

MESSAGES = [{"role": "system", "content": "# code\n"}, {"role": "user", "content": PROMPT}]


def test_chat_joins_the_messages(client: TestClient) -> None:
    expected = post(client, prompt="# code\n" + PROMPT)["choices"][0]["text"]
    answer = client.post("/v1/chat/completions", json={"messages": MESSAGES, "max_tokens": 12, "temperature": 0}).json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": expected}
    chunks = stream(client, "/v1/chat/completions", prompt=None, messages=MESSAGES)
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == expected
    parts = [{"role": "user", "content": [{"type": "text", "text": PROMPT}]}]
    answer = client.post(
        "/v1/chat/completions",
        json={"messages": parts, "max_completion_tokens": 3, "logprobs": True, "top_logprobs": 2},
    ).json()
    token = answer["choices"][0]["logprobs"]["content"][0]
    assert len(token["top_logprobs"]) == 2
    assert bytes(token["bytes"]).decode(errors="replace") == token["token"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": []},
        {"messages": ["x"]},
        {"messages": [{"role": "user"}]},
        {"messages": MESSAGES, "tools": [{}]},
        {"messages": MESSAGES, "prompt": "x"},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
    ],
)
def test_bad_chat_is_refused(client: TestClient, body: dict[str, Any]) -> None:
    assert client.post("/v1/chat/completions", json=body).status_code == 400


def test_tokens_go_there_and_back(client: TestClient, model: Model) -> None:
    ids = client.post("/tokenize", json={"prompt": PROMPT}).json()["tokens"]
    assert ids == model.tokenizer.encode(PROMPT)
    assert client.post("/detokenize", json={"tokens": ids}).json()["prompt"] == PROMPT
    assert client.post("/detokenize", json={"tokens": [-1]}).status_code == 400


def test_models_are_listed_with_what_clients_read(client: TestClient, model: Model) -> None:
    (listed,) = client.get("/v1/models").json()["data"]
    assert (listed["id"], listed["root"], listed["max_model_len"]) == (
        "codegen",
        "codegen",
        model.runtime.config.context_length,
    )
    assert client.get("/v1/models/codegen").json() == listed
    assert client.get("/v1/models/other").status_code == 404


@pytest.mark.parametrize("path", ["/health", "/live", "/ready", "/version", "/", "/page/app.js", "/page/style.css"])
def test_public_paths_answer(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_unknown_path_and_method_answer_in_the_form_of_errors(client: TestClient) -> None:
    assert client.get("/nothing").json()["error"]["message"]
    assert client.get("/v1/completions").status_code == 405


def test_metrics_parse_and_count(model: Model) -> None:
    with serving(model) as client:

        def values() -> dict[str, float]:
            families = text_string_to_metric_families(client.get("/metrics").text)
            return {
                f"{sample.name}{sorted(sample.labels.items())[:0]}": sample.value
                for family in families
                for sample in family.samples
                if not sample.labels.get("le")
            }

        before = values()
        assert before["codegen_edge:generation_tokens_total[]"] == 0
        post(client, max_tokens=5)
        stream(client, max_tokens=5)
        after = values()
    assert after["codegen_edge:generation_tokens_total[]"] == 10
    assert after["codegen_edge:time_to_first_token_seconds_count[]"] == 2
    assert after["codegen_edge:inter_token_latency_seconds_count[]"] == 8
    assert after["codegen_edge:num_requests_running[]"] == 0
    assert after["codegen_edge:e2e_request_latency_seconds_count[]"] == 2


def test_request_is_counted_once_though_its_events_come_late() -> None:
    """The engine may have finished a ticket before the first of its events is seen."""
    metrics = Metrics("codegen_edge")
    params = GenerationParams(max_new_tokens=3, n=2, temperature=1.0)
    ticket = Ticket(Job(prompts=((1, 2),), params=params))
    ticket.num_open, ticket.num_generated = 0, 6
    ticket.started_at = ticket.first_token_at = ticket.finished_at = ticket.queued_at + 1.0
    metrics.observe("m", ticket, Started(0))
    for step in range(3):
        for choice in range(2):
            reason: Any = "length" if step == 2 else None
            event = TextEvent(row=0, sample=choice, text="x", token_id=5, finish_reason=reason, seconds=0.1 * step)
            metrics.observe("m", ticket, Piece(choice, event))
    value = metrics.registry.get_sample_value
    counted = {
        name: value(f"codegen_edge:{name}", {"model_name": "m"})
        for name in (
            *("e2e_request_latency_seconds_count", "time_to_first_token_seconds_count"),
            *("request_generation_tokens_count", "request_generation_tokens_sum", "generation_tokens_total"),
        )
    }
    assert list(counted.values()) == [1, 1, 1, 6, 6]


def test_key_is_asked_for_where_there_is_one(model: Model) -> None:
    with serving(model, api_keys=("secret", "other")) as client:
        assert client.get("/health").status_code == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"X-Api-Key": ""}, {"Authorization": "secret"}):
            answer = client.get("/v1/models", headers=headers)
            assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")
        assert client.get("/metrics").status_code == 401
        for headers in ({"Authorization": "Bearer secret"}, {"X-Api-Key": "other"}):
            assert client.get("/v1/models", headers=headers).status_code == 200


def test_prefixes_of_other_keys_are_not_found(model: Model) -> None:
    prompt = "# somebody's secret beginning, which is long enough to be kept\n" * 3
    with serving(model, api_keys=("one", "two")) as client:

        def cached(key: str) -> int:
            body = {"prompt": prompt, "max_tokens": 1}
            answer = client.post("/v1/completions", json=body, headers={"X-Api-Key": key}).json()
            return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])

        assert [cached("one"), cached("two"), cached("one"), cached("two")][:2] == [0, 0]
        assert cached("one") > 0


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "127.0.0.1.nip.io:80"])
def test_other_hosts_are_not_answered(client: TestClient, host: str) -> None:
    assert client.get("/version", headers={"Host": host}).status_code == 403
    assert client.get("/ready", headers={"Host": host}).status_code == 200  # a balancer knows the address only


def test_any_host_is_answered_where_a_key_is_asked_for(model: Model) -> None:
    with serving(model, api_keys=("secret",)) as client:
        assert client.get("/version", headers={"Host": "server.example"}).status_code == 200
    with serving(model, api_keys=("secret",), allowed_hosts=("a.example",)) as client:
        assert client.get("/version", headers={"Host": "a.example:8080"}).status_code == 200
        assert client.get("/version", headers={"Host": "server.example"}).status_code == 403


def test_large_bodies_are_refused_with_and_without_a_length(model: Model) -> None:
    with serving(model, max_body_bytes=2000) as client:
        assert client.post("/v1/completions", content=b"x" * 3000).status_code == 413
        assert client.post("/v1/completions", content=(b"x" * 500 for _ in range(6))).status_code == 413
        assert client.post("/v1/completions", json={"prompt": "x", "max_tokens": 1}).status_code == 200


def test_other_origins_get_no_permission_but_the_listed_ones(model: Model) -> None:
    with serving(model, cors_origins=("https://a.example",)) as client:
        allowed = client.options("/v1/completions", headers={"Origin": "https://a.example"})
        assert allowed.headers["access-control-allow-origin"] == "https://a.example"
        other = client.get("/health", headers={"Origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers


def test_strict_server_refuses_unknown_fields(model: Model) -> None:
    with serving(model, is_strict=True) as client:
        answer = client.post("/v1/completions", json={"prompt": "x", "foo": 1})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "foo")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"host": "0.0.0.0"}, "can be reached by others"),
        ({"host": "example.org"}, "can be reached by others"),
        ({"port": 70000}, "port must be"),
        ({"cors_origins": ("*",)}, "exact origins"),
        ({"api_keys": ("",)}, "API key"),
        ({"max_body_bytes": 1}, "max_body_bytes"),
    ],
)
def test_unsafe_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        ServerSettings(**settings)


def test_full_queue_is_429_before_anything_is_read(model: Model) -> None:
    from codegen_edge.server.engine import QueueFullError

    with serving(model, engine={"max_queued": 1}) as client:
        state = client.app.state  # type: ignore[attr-defined]

        def full(client: str | None = None) -> None:
            raise QueueFullError("1 requests with 5 tokens are waiting", retry_after=2.4)

        engine = state.served[0].engine
        original, engine.check_admission = engine.check_admission, full
        answer = client.post("/v1/completions", content=b"{ no json")
        engine.check_admission = original
        assert answer.status_code == 429
        assert (answer.headers["retry-after"], answer.headers["retry-after-ms"]) == ("3", "2400")
        assert client.post("/v1/completions", json={"prompt": "x", "max_tokens": 1}).status_code == 200


def test_chat_template_is_rendered_in_a_sandbox(model: Model) -> None:
    pytest.importorskip("jinja2")
    template = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    with serving(model, chat_template=template) as client:
        body = {"messages": MESSAGES, "max_tokens": 1, "temperature": 0}
        found = client.post("/v1/chat/completions", json=body).json()
        tokens = model.tokenizer.encode(f"system: # code\n\nuser: {PROMPT}\n")
        assert found["usage"]["prompt_tokens"] == len(tokens)
