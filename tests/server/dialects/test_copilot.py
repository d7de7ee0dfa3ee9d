"""FauxPilot's routes: GitHub Copilot's extensions and FauxPilot's own examples."""

from __future__ import annotations

import time

import pytest
from starlette.testclient import TestClient

from codegen_edge.generation.model import Model
from tests.server.dialects.recorded import SLOTS, answered, events, recorded, send, serving

PATH = "/v1/engines/codegen/completions"
LONG = "def add(a, b):\n    return a + b\n\n\n" * 400


def test_copilot_is_answered_in_a_stream(client: TestClient) -> None:
    answer = send(client, "copilot_vscode", stop=["\n\n\n"])
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "x-ignored-fields" not in answer.headers
    *chunks, done = events(answer.text)
    assert done == "[DONE]"
    assert len([chunk for chunk in chunks if chunk["choices"][0]["text"]]) > 1
    whole = answered(client, "copilot_vscode", stop=["\n\n\n"], stream=False)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["choices"][0]["text"]
    assert whole["object"] == "text_completion"


def test_fields_of_copilot_are_no_unknown_ones(model: Model) -> None:
    with serving(model, is_strict=True) as client:
        assert send(client, "copilot_vscode").status_code == 200
        assert send(client, "copilot_vscode", surprise=1).status_code == 400


@pytest.mark.parametrize("stream", [None, False])
def test_without_stream_nothing_is_streamed(client: TestClient, stream: bool | None) -> None:
    answer = send(client, "fauxpilot_curl", stream=stream)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["choices"][0]["finish_reason"] in {"stop", "length"}


@pytest.mark.parametrize("name", [None, "fastertransformer", "codegen", "tiny"])
def test_whatever_the_model_is_called_there_is_one(client: TestClient, name: str | None) -> None:
    assert answered(client, "fauxpilot_curl", model=name)["model"] == "tiny"


def test_prompt_that_is_too_long_is_cut_from_the_left(client: TestClient, model: Model) -> None:
    answer = answered(client, "copilot_vscode", prompt=LONG, max_tokens=8, stream=False, stop=None)
    context = model.runtime.config.context_length
    num_read = answer["usage"]["prompt_tokens"]
    assert context // 2 <= num_read <= context - 8
    ids = model.tokenizer.encode(LONG)[-num_read:]
    expected = client.post("/v1/completions", json={"prompt": ids, "max_tokens": 8, "temperature": 0}).json()
    assert answer["choices"][0]["text"] == expected["choices"][0]["text"]
    by_ids = answered(client, "copilot_vscode", prompt=model.tokenizer.encode(LONG), max_tokens=8, stream=False)
    assert context // 2 <= by_ids["usage"]["prompt_tokens"] <= context - 8


def test_more_tokens_than_the_context_holds_leave_half_of_it_to_the_prompt(client: TestClient, model: Model) -> None:
    answer = answered(client, "copilot_vscode", prompt=LONG, max_tokens=100_000, stream=False, stop=None)
    context = model.runtime.config.context_length
    assert context // 4 < answer["usage"]["prompt_tokens"] <= context // 2
    assert answer["usage"]["total_tokens"] <= context


def test_more_choices_than_slots_are_as_many_as_there_are_slots(client: TestClient) -> None:
    answer = answered(client, "copilot_vscode", n=10, temperature=0.8, stream=False)
    assert len(answer["choices"]) == SLOTS


def test_suffix_stops(client: TestClient) -> None:
    answer = send(client, "copilot_vscode", suffix="\nreturn\n", stream=False)
    assert answer.headers["x-suffix"] == "stop-only"


@pytest.mark.parametrize("prompt", [{"a": 1}, [], [[]], 3])
def test_prompt_that_is_none_is_refused(client: TestClient, prompt: object) -> None:
    assert client.post(PATH, json={"prompt": prompt}).status_code == 400


def test_token_expires_and_has_no_chat(client: TestClient) -> None:
    token = answered(client, "copilot_token")
    assert time.time() < token["expires_at"] < time.time() + 3600
    assert token["refresh_in"] < 1800
    assert token["chat_enabled"] is False
    assert token["token"]


def test_token_is_the_key_that_came(model: Model) -> None:
    with serving(model, api_keys=("secret",)) as client:
        path = recorded("copilot_token")["path"]
        assert client.get(path).status_code == 401
        assert client.get(path, headers={"authorization": "Bearer secret"}).json()["token"] == "secret"
