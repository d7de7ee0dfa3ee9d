"""POST /infill: llama.vim and llama.vscode."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from codegen_edge.generation.model import Model
from tests.server.dialects.recorded import answered, events, recorded, send

VIM_FIELDS = recorded("llama_vim_fim")["body"]["response_fields"]


def test_vim_gets_the_fields_that_it_names(client: TestClient) -> None:
    answer = send(client, "llama_vim_fim")
    assert answer.status_code == 200, answer.text
    assert answer.json().keys() == set(VIM_FIELDS)
    assert isinstance(answer.json()["content"], str)
    assert "x-ignored-fields" not in answer.headers


def test_warming_up_answers_vim_with_nothing(client: TestClient) -> None:
    assert answered(client, "llama_vim_warm_up") == {}


def test_warming_up_spares_the_next_request_the_snippets(client: TestClient) -> None:
    extra = [{"filename": "a.py", "text": "import abc\n"}]
    answered(client, "llama_vim_warm_up", input_extra=extra)
    answer = answered(client, "llama_vim_fim", input_extra=extra, response_fields=None)
    assert answer["timings"]["cache_n"] > 0


def test_vscode_gets_several_completions(client: TestClient) -> None:
    answer = send(client, "llama_vscode_fim")
    assert answer.status_code == 200, answer.text
    assert len(answer.json()) == 3
    assert all(isinstance(each["content"], str) for each in answer.json())
    assert all(each["generation_settings"]["n_ctx"] for each in answer.json())
    assert answer.headers["x-ignored-fields"] == "lora"
    one = answered(client, "llama_vscode_fim", n_cmpl=1)
    assert one["timings"]["prompt_n"] >= 0
    assert answered(client, "llama_vscode_warm_up")["content"] == ""


def test_prompt_is_snippets_prefix_and_middle(client: TestClient, model: Model) -> None:
    body = recorded("llama_vim_fim")["body"]
    text = "# Path: shapes.py\n# def area(width, height):\n#     return width * height\n\n"
    text += body["input_prefix"] + body["prompt"]
    answer = answered(client, "llama_vim_fim", response_fields=["prompt"], n_predict=4)
    assert answer["prompt"] == text[-len(answer["prompt"]) :]
    assert len(answer["prompt"]) > len(body["prompt"])


def test_choice_is_greedy_where_no_temperature_is_given(client: TestClient, model: Model) -> None:
    body: dict[str, Any] = {"input_extra": [], "input_suffix": "", "n_indent": 0, "response_fields": None}
    answer = answered(client, "llama_vim_fim", t_max_predict_ms=0, **body)
    expected = model.generate(answer["prompt"], max_new_tokens=16)
    assert answer["content"] == expected.text
    assert answer["generation_settings"]["temperature"] == 0
    warm = answered(client, "llama_vim_fim", temperature=0.8, seed=3, **body)
    assert warm["generation_settings"]["top_k"] == 40


def test_everything_is_cut_from_the_left(client: TestClient, model: Model) -> None:
    prefix = "".join(f"value_{number} = {number}\n" for number in range(500))
    answer = answered(client, "llama_vim_fim", input_prefix=prefix, response_fields=None)
    assert answer["truncated"] is True
    assert answer["tokens_evaluated"] <= model.runtime.config.context_length - 16
    assert (prefix + "        return ").endswith(answer["prompt"])
    # A key more does not move the beginning: what is known of the prompt stays of use.
    longer = answered(client, "llama_vim_fim", input_prefix=prefix, prompt="        return s", response_fields=None)
    assert longer["prompt"] == answer["prompt"] + "s"


def test_suffix_is_where_the_text_stops(client: TestClient) -> None:
    body: dict[str, Any] = {"n_indent": 0, "response_fields": None, "t_max_predict_ms": 0}
    free = answered(client, "llama_vim_fim", input_suffix=" \n", **body)
    assert free["generation_settings"]["stop"] == []  # a blank suffix is none
    text = free["content"]
    start = next(place for place in range(2, len(text)) if text[place : place + 2].strip())
    suffix = text[start : start + 2]
    stopped = answered(client, "llama_vim_fim", input_suffix=suffix, **body)
    assert stopped["content"] == text[: text.index(suffix)]
    assert (stopped["stop_type"], stopped["stopping_word"]) == ("word", suffix)


@pytest.mark.parametrize(
    "extra",
    [{}, {"filename": "ok"}, {"filename": 123}, {"filename": 123, "text": "a"}, {"filename": "a", "text": 4}, 3],
)
def test_snippet_that_is_none_is_refused(client: TestClient, extra: Any) -> None:
    answer = send(client, "llama_vim_fim", input_extra=[extra])
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == 400
    assert send(client, "llama_vim_fim", input_extra="text").status_code == 400


def test_stream_joins_to_the_whole_answer(client: TestClient) -> None:
    body: dict[str, Any] = {"response_fields": None, "t_max_predict_ms": 0}
    whole = answered(client, "llama_vim_fim", **body)
    *chunks, last = events(send(client, "llama_vim_fim", stream=True, **body).text)
    assert "".join(chunk["content"] for chunk in chunks) == whole["content"]
    assert (last["stop"], last["truncated"]) == (True, whole["truncated"])


def test_nothing_but_a_prefix_is_enough(client: TestClient, model: Model) -> None:
    answer = client.post("/infill", json={"input_prefix": "def f():\n"}).json()
    assert answer["tokens_cached"] <= model.runtime.config.context_length
    assert client.post("/infill", json={"n_predict": 2}).status_code == 200
