"""What llm-ls sends to its three backends, and Ollama's stream."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from codegen_edge.generation.model import Model
from tests.server.dialects.recorded import answered, send

PROMPT = "def add(a, b):\n    "
LONG = "value = 1\n" * 3000


def test_tgi_answers_the_generated_text(client: TestClient, model: Model) -> None:
    answer = answered(client, "llm_ls_tgi")
    assert answer.keys() == {"generated_text"}
    greedy = answered(client, "llm_ls_tgi", parameters={"max_new_tokens": 12})
    expected = model.generate(PROMPT, max_new_tokens=12)
    assert greedy["generated_text"] == expected.text
    whole = answered(client, "llm_ls_tgi", parameters={"max_new_tokens": 12, "return_full_text": True})
    assert whole["generated_text"] == PROMPT + expected.text


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, {}),
        ({"do_sample": False}, {}),
        ({"do_sample": True}, {"temperature": 1.0}),
        ({"top_p": 0.9}, {"temperature": 1.0, "top_p": 0.9}),
        ({"temperature": 0.5, "top_k": 5}, {"temperature": 0.5, "top_k": 5}),
    ],
)
def test_tgi_samples_where_a_parameter_says_so(
    client: TestClient, model: Model, parameters: dict[str, Any], expected: dict[str, Any]
) -> None:
    answer = answered(client, "llm_ls_tgi", parameters={"max_new_tokens": 12, "seed": 3, **parameters})
    assert answer["generated_text"] == model.generate(PROMPT, max_new_tokens=12, seed=3, **expected).text


def test_tgi_tells_details(client: TestClient, model: Model) -> None:
    details = answered(client, "llm_ls_tgi", parameters={"max_new_tokens": 5, "details": True})["details"]
    assert (details["finish_reason"], details["generated_tokens"]) == ("length", 5)
    expected = model.generate(PROMPT, max_new_tokens=5, top_logprobs=0)
    assert [token["id"] for token in details["tokens"]] == list(expected.token_ids)


def test_tgi_cuts_from_the_left(client: TestClient) -> None:
    assert answered(client, "llm_ls_tgi", inputs=LONG)["generated_text"] is not None
    short = answered(client, "llm_ls_tgi", inputs=LONG + PROMPT, parameters={"max_new_tokens": 4, "truncate": 3})
    assert short["generated_text"] is not None


def test_tgi_errors_are_texts(client: TestClient) -> None:
    answer = send(client, "llm_ls_tgi", inputs=3)
    assert answer.status_code == 400
    assert answer.json()["error_type"] == "validation"
    assert isinstance(answer.json()["error"], str)
    unknown = send(client, "llm_ls_tgi", parameters={"max_new_tokens": 2, "watermark": True}, stream=True)
    assert unknown.headers["x-ignored-fields"] == "stream, parameters.watermark"


def test_ollama_answers_at_once_where_it_is_asked_to(client: TestClient) -> None:
    answer = answered(client, "llm_ls_ollama")
    assert isinstance(answer["response"], str)
    assert (answer["done"], answer["done_reason"] in {"stop", "length"}) == (True, True)
    assert answer["model"] == "tiny"
    assert answer["prompt_eval_count"] > 0
    assert all(answer[name] >= 0 for name in ("total_duration", "prompt_eval_duration", "eval_duration"))


def test_ollama_streams_lines_by_itself(client: TestClient, model: Model) -> None:
    answer = send(client, "ollama_stream")
    assert answer.headers["content-type"] == "application/x-ndjson"
    *pieces, last = map(json.loads, answer.text.splitlines())
    whole = answered(client, "ollama_stream", stream=False)
    assert "".join(piece["response"] for piece in pieces) == whole["response"]
    assert whole["response"] == model.generate(PROMPT, max_new_tokens=16).text
    assert not any(piece["done"] for piece in pieces)
    assert (last["done"], last["done_reason"], last["eval_count"]) == (True, whole["done_reason"], whole["eval_count"])


def test_ollama_without_a_prompt_loads_the_model(client: TestClient) -> None:
    answer = answered(client, "llm_ls_ollama", prompt="")
    assert (answer["response"], answer["done"], answer["done_reason"]) == ("", True, "load")


def test_ollama_fills_the_context_and_cuts_from_the_left(client: TestClient, model: Model) -> None:
    answer = answered(client, "llm_ls_ollama", prompt=LONG, options={"temperature": 0})
    assert answer["prompt_eval_count"] + answer["eval_count"] <= model.runtime.config.context_length
    assert answered(client, "llm_ls_ollama", model=None, options={"num_predict": 0})["response"] == ""


def test_ollama_errors_are_texts(client: TestClient) -> None:
    answer = send(client, "llm_ls_ollama", model="codellama:7b")
    assert (answer.status_code, answer.json().keys()) == (404, {"error"})
    assert send(client, "llm_ls_ollama", images=["aGk="]).status_code == 400


def test_openai_backend_reads_text_and_the_detail_of_errors(client: TestClient) -> None:
    assert isinstance(answered(client, "llm_ls_openai")["choices"][0]["text"], str)
    answer = send(client, "llm_ls_openai", max_tokens="many")
    (detail,) = answer.json()["detail"]
    assert detail["loc"] == "max_tokens"
    assert detail["msg"] == answer.json()["error"]["message"]
    others = client.post("/v1/completions", json={"prompt": "a", "max_tokens": "many"})
    assert others.json().keys() == {"error"}
