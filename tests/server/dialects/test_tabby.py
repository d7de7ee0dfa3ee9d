"""Tabby's clients: completions with segments on a route that they share with OpenAI's, events and health."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from codegen_edge.generation.model import Model
from tests.server.dialects.recorded import answered, recorded, send, serving


def test_answer_is_tabbys(client: TestClient) -> None:
    answer = send(client, "tabby_completion")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body.keys() == {"id", "choices", "mode"}
    (choice,) = body["choices"]
    assert choice.keys() == {"index", "text"}
    assert choice["index"] == 0
    assert "x-ignored-fields" not in answer.headers


def test_prompt_is_snippets_and_prefix(client: TestClient) -> None:
    segments = {"prefix": "def fib(n):\n    ", "declarations": [{"filepath": "base.py", "body": "one = 1"}]}
    prompt = "# Path: base.py\n# one = 1\n\ndef fib(n):\n    "
    with_snippets = answered(client, "tabby_completion", segments=segments)
    raw = answered(client, "tabby_completion", segments={"prefix": ""}, debug_options={"raw_prompt": prompt})
    assert with_snippets["choices"][0]["text"] == raw["choices"][0]["text"]
    plain = client.post("/v1/completions", json={"prompt": prompt, "max_tokens": 64, "temperature": 0}).json()
    assert plain["choices"][0]["text"] == raw["choices"][0]["text"]


def test_manual_requests_are_sampled(client: TestClient) -> None:
    segments = {"prefix": "def fib(n):\n    "}
    first = answered(client, "tabby_completion", segments=segments, temperature=0.8, seed=1)
    assert (
        first["choices"] == answered(client, "tabby_completion", segments=segments, temperature=0.8, seed=1)["choices"]
    )


def test_lines_end_as_those_of_the_file(client: TestClient) -> None:
    unix = answered(client, "tabby_completion", segments={"prefix": "import os\n\nimport sys\n"})
    windows = answered(client, "tabby_completion", segments={"prefix": "import os\r\n\r\nimport sys\r\n"})
    assert windows["choices"][0]["text"] == unix["choices"][0]["text"].replace("\n", "\r\n")


def test_long_prefix_is_cut_from_the_left(client: TestClient) -> None:
    assert answered(client, "tabby_completion", segments={"prefix": "value = 1\n" * 3000})["choices"]


@pytest.mark.parametrize(
    "changed",
    [
        {"mode": "next_edit_suggestion"},
        {"segments": {"suffix": "x"}},
        {"segments": {"prefix": "x", "declarations": [{"filepath": "x"}]}},
        {"temperature": "hot"},
    ],
)
def test_what_is_malformed_is_refused(client: TestClient, changed: dict[str, object]) -> None:
    assert send(client, "tabby_completion", **changed).status_code == 400


def test_event_is_answered_and_nothing_else(client: TestClient) -> None:
    answer = send(client, "tabby_event")
    assert (answer.status_code, answer.content) == (200, b"")


def test_health_has_what_tabbys_clients_need_to_ask_for_completions(client: TestClient) -> None:
    health = answered(client, "tabby_health")
    assert health["model"] == "tiny"
    assert health["version"]["git_describe"]
    assert health["status"] == "ok"


def test_health_names_the_model_to_those_only_who_have_the_key(model: Model) -> None:
    with serving(model, api_keys=("secret",)) as client:
        path = recorded("tabby_health")["path"]
        assert "model" not in client.get(path).json()
        assert "model" not in client.get(path, headers={"authorization": "Bearer wrong"}).json()
        assert client.get(path, headers={"authorization": "Bearer secret"}).json()["model"] == "tiny"
