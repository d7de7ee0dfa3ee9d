"""llama.cpp's own API: its README's request, Continue's, and what its clients read of the answers."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from codegen_edge.generation.model import Model
from tests.server.dialects.recorded import SLOTS, answered, events, send, serving

PROMPT = "def add(a, b):\n    "
FIELDS = {"content", "tokens", "stop", "stop_type", "stopping_word", "model", "tokens_predicted", "tokens_evaluated"}
FURTHER = {"truncated", "tokens_cached", "timings", "generation_settings"}
PACE = {"prompt_n", "prompt_ms", "prompt_per_second", "predicted_n", "predicted_ms", "predicted_per_second"}


def post(client: TestClient, **body: Any) -> Any:
    return client.post("/completion", json={"prompt": PROMPT, "n_predict": 12, "temperature": 0} | body)


def complete(client: TestClient, **body: Any) -> Any:
    answer = post(client, **body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_answer_has_what_clients_read(client: TestClient, model: Model) -> None:
    answer = answered(client, "llama_cpp_readme")
    assert answer.keys() >= FIELDS | FURTHER
    assert answer["timings"].keys() >= PACE
    assert answer["stop"] is True
    assert answer["tokens_predicted"] == answer["timings"]["predicted_n"] <= 16
    assert answer["tokens_evaluated"] == len(
        model.tokenizer.encode("Building a website can be done in 10 simple steps:")
    )
    assert answer["tokens_cached"] == answer["tokens_evaluated"] + answer["tokens_predicted"]
    assert answer["tokens"] == []
    assert answer["model"] == "tiny"


def test_defaults_are_those_of_llama_cpp(client: TestClient, model: Model) -> None:
    answer = answered(client, "llama_cpp_readme")
    used = answer["generation_settings"]
    assert (used["temperature"], used["top_k"], used["top_p"], used["min_p"]) == (0.8, 40, 0.95, 0.05)
    assert used["n_ctx"] == model.runtime.config.context_length
    again = model.generate(
        answer["prompt"], max_new_tokens=16, temperature=0.8, top_k=40, top_p=0.95, min_p=0.05, seed=used["seed"]
    )
    assert answer["content"] == again.text


def test_text_is_that_of_the_model_in_process(client: TestClient, model: Model) -> None:
    answer = complete(client, return_tokens=True)
    expected = model.generate(PROMPT, max_new_tokens=12)
    assert answer["content"] == expected.text
    assert answer["tokens"] == list(expected.token_ids)
    assert answer["stop_type"] == "limit"
    assert answer["has_new_line"] is ("\n" in expected.text)


@pytest.mark.parametrize("body", [{}, {"temperature": 0.8, "seed": 5}, {"n_probs": 2}, {"timings_per_token": True}])
def test_stream_joins_to_the_whole_answer(client: TestClient, body: dict[str, Any]) -> None:
    whole = complete(client, return_tokens=True, **body)
    answer = post(client, stream=True, **body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "[DONE]" not in answer.text
    *chunks, last = events(answer.text)
    assert "".join(chunk["content"] for chunk in chunks) == whole["content"]
    assert [token for chunk in chunks for token in chunk["tokens"]] == whole["tokens"]
    assert not any(chunk["stop"] for chunk in chunks)
    assert last["stop"] is True
    assert last["content"] == ""
    assert all(last[name] == whole[name] for name in ("stop_type", "tokens_predicted", "tokens_evaluated", "truncated"))
    assert all(("timings" in chunk) is ("timings_per_token" in body) for chunk in chunks)


def test_continue_reads_the_contents_of_a_stream(client: TestClient) -> None:
    *chunks, last = events(send(client, "continue_llama_cpp").text)
    assert "".join(chunk["content"] for chunk in chunks)
    assert last["stop"]


def test_prompt_may_be_text_ids_or_both(client: TestClient, model: Model) -> None:
    ids = model.tokenizer.encode(PROMPT)
    expected = complete(client)
    for prompt in (
        ids,
        [PROMPT],
        [model.tokenizer.decode(ids[:3]), *ids[3:]],
        [ids[0], model.tokenizer.decode(ids[1:])],
    ):
        found = complete(client, prompt=prompt)
        assert (found["content"], found["tokens_evaluated"]) == (expected["content"], expected["tokens_evaluated"])


def test_several_prompts_and_completions_are_a_list(client: TestClient) -> None:
    both = complete(client, prompt=[PROMPT, "import os\n"])
    assert [each["content"] for each in both] == [
        complete(client)["content"],
        complete(client, prompt="import os\n")["content"],
    ]
    assert [each["prompt"] for each in both] == [PROMPT, "import os\n"]
    assert [each["index"] for each in complete(client, n_cmpl=3, temperature=0.8, seed=1)] == [0, 1, 2]
    assert len({each["content"] for each in complete(client, n_cmpl=3)}) == 1
    assert len(complete(client, n_cmpl=64, temperature=1)) == SLOTS


def test_without_a_number_the_context_is_filled(client: TestClient, model: Model) -> None:
    answer = complete(client, n_predict=-1, ignore_eos=True)
    assert answer["tokens_cached"] == model.runtime.config.context_length
    assert answer["stop_type"] == "limit"


def test_no_tokens_are_none(client: TestClient) -> None:
    answer = complete(client, n_predict=0)
    assert (answer["content"], answer["tokens_predicted"], answer["stop_type"]) == ("", 0, "limit")
    (last,) = events(post(client, n_predict=0, stream=True).text)
    assert last["stop"]


def test_stopping_word_is_named(client: TestClient) -> None:
    text = complete(client)["content"]
    word = text[3:5]
    answer = complete(client, stop=["not there", word])
    assert (answer["stop_type"], answer["stopping_word"]) == ("word", word)
    assert answer["content"] == text[: text.index(word)]


@pytest.mark.parametrize("as_dict", [False, True])
def test_bias_bans_an_id_and_a_text(client: TestClient, model: Model, as_dict: bool) -> None:
    first = complete(client, return_tokens=True)["tokens"][0]
    text = model.tokenizer.decode([first])
    banned: tuple[Any, ...] = (str(first) if as_dict else first, text) if len(model.tokenizer.encode(text)) == 1 else ()
    assert banned
    for token in banned:
        bias = {token: False} if as_dict else [[token, False]]
        found = complete(client, return_tokens=True, logit_bias=bias)["tokens"]
        assert first not in found
    raised = complete(client, return_tokens=True, n_predict=3, logit_bias=[[7, 1000]])
    assert raised["tokens"] == [7, 7, 7]


@pytest.mark.parametrize(
    "bias", ["x", [[1]], [[1, "a"]], [[1, True]], [[-1, 1]], [[1 << 20, 1]], {"5": []}, [[None, 1]]]
)
def test_bias_that_is_none_is_refused(client: TestClient, bias: Any) -> None:
    assert post(client, logit_bias=bias).status_code == 400


def test_probabilities_are_those_of_the_model(client: TestClient, model: Model) -> None:
    answer = complete(client, n_probs=3)
    expected = model.generate(PROMPT, max_new_tokens=12, top_logprobs=3)
    assert expected.logprobs is not None
    found = answer["completion_probabilities"]
    assert [each["id"] for each in found] == list(expected.token_ids)
    assert [each["logprob"] for each in found] == pytest.approx(list(expected.logprobs), abs=1e-5)
    assert all(len(each["top_logprobs"]) == 3 for each in found)
    assert all(bytes(each["bytes"]) == model.tokenizer.token_bytes(each["id"]) for each in found)


def test_response_fields_are_chosen(client: TestClient) -> None:
    fields = ["content", "timings/predicted_n", "timings/nothing", "nothing/at/all", ""]
    answer = complete(client, response_fields=fields)
    assert answer.keys() == {"content", "timings/predicted_n"}
    assert complete(client, response_fields=[""]) == {}
    assert post(client, response_fields="content").status_code == 400


def test_prompt_that_is_too_long_is_told_in_numbers(client: TestClient, model: Model) -> None:
    context = model.runtime.config.context_length
    answer = post(client, prompt=[5] * context)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (400, 400, "exceed_context_size_error")
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (context, context)
    assert post(client, prompt="x" * 900_000).json()["error"]["n_prompt_tokens"] > context


@pytest.mark.parametrize(
    "body", [{"prompt": {}}, {"prompt": [-1]}, {"prompt": [[]]}, {"n_predict": "x"}, {"temperature": 3}, {"stop": 1}]
)
def test_errors_have_the_form_of_llama_cpp(client: TestClient, body: dict[str, Any]) -> None:
    answer = post(client, **body)
    assert answer.status_code == 400
    assert answer.json()["error"].keys() == {"code", "message", "type"}
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_unknown_fields_are_named(client: TestClient, model: Model) -> None:
    assert post(client, mirostat=2).headers["x-ignored-fields"] == "mirostat"
    assert "x-ignored-fields" not in post(client, cache_prompt=True, samplers=["top_k"], id_slot=1).headers
    with serving(model, is_strict=True) as strict:
        assert post(strict, mirostat=2).status_code == 400


def test_time_for_tokens_ends_the_text_at_a_line(client: TestClient, model: Model) -> None:
    newline = model.tokenizer.encode("\n")
    answer = complete(client, t_max_predict_ms=0.001, n_predict=50, logit_bias=[[newline[0], 1000]])
    assert answer["content"] == "\n"
    assert answer["stop_type"] == "limit"


def test_what_a_server_tells_of_itself(client: TestClient, model: Model) -> None:
    props = client.get("/props").json()
    assert props["default_generation_settings"]["n_ctx"] == model.runtime.config.context_length
    assert props["total_slots"] == SLOTS
    assert str(model.bundle.path) not in client.get("/props").text
    slots = client.get("/slots?model=tiny&fail_on_no_slot=1").json()
    assert [slot["id"] for slot in slots] == list(range(SLOTS))
    assert not any(slot["is_processing"] for slot in slots)
    assert client.get("/lora-adapters").json() == []


def test_grammar_and_json_schema_are_followed(client: TestClient) -> None:
    answer = complete(client, grammar='root ::= "a" | "b"')
    assert answer["content"] in {"a", "b"}
    assert answer["stop_type"] != "limit"
    assert complete(client, json_schema={"enum": [7]})["content"] == "7"
    assert complete(client, grammar="")["content"] == complete(client)["content"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"json_schema": {"uniqueItems": True}}, "'uniqueItems'"),
        ({"grammar": "root ::= other"}, "the gbnf cannot be used"),
        ({"grammar": 'root ::= "a"', "json_schema": {}}, "grammar and json_schema do not go together"),
        ({"grammar": 'root ::= "a"', "stop": ["a"]}, "stop does not go with"),
    ],
)
def test_a_grammar_that_cannot_be_used_is_llama_cpps_error(
    client: TestClient, body: dict[str, Any], message: str
) -> None:
    answer = post(client, **body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["type"]) == (400, "invalid_request_error")
    assert message in error["message"]
