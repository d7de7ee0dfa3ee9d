"""Continue's autocompletion and Mistral's own request; and Continue on the legacy completions."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from codegen_edge.generation.model import Model
from tests.server.dialects.recorded import answered, events, send


def test_continue_reads_a_content_in_every_chunk(client: TestClient) -> None:
    answer = send(client, "continue_fim")
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-suffix"] == "stop-only"
    assert "x-ignored-fields" not in answer.headers
    *chunks, done = events(answer.text)
    assert done == "[DONE]"
    assert all(isinstance(chunk["choices"][0]["delta"]["content"], str) for chunk in chunks)
    assert chunks[-1]["choices"][0]["finish_reason"] in {"stop", "length"}
    assert chunks[0]["object"] == "chat.completion.chunk"


@pytest.mark.parametrize("path", ["/v1/fim/completions", "/fim/completions"])
def test_stream_joins_to_the_whole_answer(client: TestClient, model: Model, path: str) -> None:
    body: dict[str, Any] = {"model": "tiny", "prompt": "def add(a, b):\n    ", "max_tokens": 12}
    whole = client.post(path, json=body).json()
    assert whole["object"] == "chat.completion"
    assert whole["choices"][0]["message"]["role"] == "assistant"
    assert whole["choices"][0]["message"]["content"] == model.generate(body["prompt"], max_new_tokens=12).text
    chunks = events(client.post(path, json={**body, "stream": True}).text)[:-1]
    content = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
    assert content == whole["choices"][0]["message"]["content"]


def test_mistrals_seed_is_taken(client: TestClient) -> None:
    first = answered(client, "mistral_fim", temperature=0.9)
    assert first["choices"] == answered(client, "mistral_fim", temperature=0.9)["choices"]
    assert first["usage"]["total_tokens"] > 0


def test_long_prompt_is_cut_from_the_left(client: TestClient, model: Model) -> None:
    answer = answered(client, "mistral_fim", prompt="value = 1\n" * 3000)
    assert answer["usage"]["total_tokens"] <= model.runtime.config.context_length


@pytest.mark.parametrize("changed", [{"prompt": None}, {"prompt": ["a"]}, {"logprobs": 1}, {"max_tokens": -1}])
def test_what_is_malformed_is_refused(client: TestClient, changed: dict[str, object]) -> None:
    assert send(client, "mistral_fim", **changed).status_code == 400
    assert send(client, "mistral_fim", model="codestral-latest").status_code == 404


def test_continue_on_legacy_completions(client: TestClient) -> None:
    *chunks, done = events(send(client, "continue_legacy").text)
    assert done == "[DONE]"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks)
