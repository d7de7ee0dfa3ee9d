"""POST /v1/completions gives what the model gives in process, field by field."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from codegen_edge.generation import GenerationParams
from codegen_edge.generation.model import Model
from codegen_edge.generation.sampling import log_softmax

PROMPT = "def add(a, b):\n    "


def post(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 12, "temperature": 0} | body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def stream(client: TestClient, path: str = "/v1/completions", **body: Any) -> list[dict[str, Any]]:
    fields = {"prompt": PROMPT, "max_tokens": 12, "temperature": 0, "stream": True} | body
    with client.stream(
        "POST", path, json={name: value for name, value in fields.items() if value is not None}
    ) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def texts(answer: dict[str, Any]) -> list[str]:
    return [choice["text"] for choice in answer["choices"]]


def test_text_is_that_of_the_model_in_process(client: TestClient, model: Model) -> None:
    expected = model.generate(PROMPT, max_new_tokens=12)
    answer = post(client)
    assert texts(answer) == [expected.text]
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 12
    assert answer["object"] == "text_completion"
    seeded = model.generate(PROMPT, max_new_tokens=12, temperature=0.8, top_p=0.9, seed=3)
    assert texts(post(client, temperature=0.8, top_p=0.9, seed=3)) == [seeded.text]


@pytest.mark.parametrize("body", [{}, {"temperature": 0.7, "seed": 5, "n": 3}, {"logprobs": 2}, {"n": 2}])
def test_stream_joins_to_the_whole_answer(client: TestClient, body: dict[str, Any]) -> None:
    whole = post(client, **body)
    pieces: dict[int, str] = {}
    reasons: dict[int, list[str]] = {}
    logprobs: dict[int, list[float]] = {}
    for chunk in stream(client, **body):
        for choice in chunk["choices"]:
            pieces[choice["index"]] = pieces.get(choice["index"], "") + choice["text"]
            if choice["finish_reason"]:
                reasons.setdefault(choice["index"], []).append(choice["finish_reason"])
            if choice["logprobs"]:
                logprobs.setdefault(choice["index"], []).extend(choice["logprobs"]["token_logprobs"])
    assert [pieces[index] for index in sorted(pieces)] == texts(whole)
    assert all(len(found) == 1 for found in reasons.values())
    if "logprobs" in body:
        assert logprobs[0] == whole["choices"][0]["logprobs"]["token_logprobs"]


def test_first_chunk_carries_text(client: TestClient) -> None:
    assert stream(client)[0]["choices"][0]["text"]


def test_prompts_may_be_texts_or_ids_alone_or_listed(client: TestClient, model: Model) -> None:
    ids = model.tokenizer.encode(PROMPT)
    alone = texts(post(client))[0]
    assert texts(post(client, prompt=ids)) == [alone]
    assert texts(post(client, prompt=[PROMPT, "import os"])) == [alone, texts(post(client, prompt="import os"))[0]]
    assert texts(post(client, prompt=[ids, "import os"]))[0] == alone
    assert texts(post(client, prompt=None)) == texts(post(client, prompt="<|endoftext|>"))


def test_samples_are_those_of_the_model(client: TestClient, model: Model) -> None:
    expected = model.generate(PROMPT, max_new_tokens=12, temperature=0.9, seed=1, n=3)
    found = texts(post(client, temperature=0.9, seed=1, n=3))
    assert found == [expected.text, *(each.text for each in expected.alternatives)]


def test_best_of_answers_the_likeliest(client: TestClient, model: Model) -> None:
    expected = model.generate(PROMPT, max_new_tokens=12, temperature=0.9, seed=1, n=4, top_logprobs=0)
    samples = [expected, *expected.alternatives]
    best = max(samples, key=lambda each: sum(each.logprobs or ()) / len(each.token_ids))
    assert texts(post(client, temperature=0.9, seed=1, n=1, best_of=4)) == [best.text]


@pytest.mark.parametrize("max_tokens", [0, 4])
def test_echoed_log_probabilities_are_those_of_one_forward_pass(
    max_tokens: int, client: TestClient, model: Model
) -> None:
    answer = post(client, echo=True, logprobs=3, max_tokens=max_tokens)["choices"][0]
    ids = model.tokenizer.encode(PROMPT)
    logits = model.runtime.step(np.array([ids], np.int64), model.runtime.new_cache(1, len(ids)), all_logits=True)[0]
    expected = [float(row[token]) for row, token in zip(log_softmax(logits), ids[1:], strict=False)]
    found = answer["logprobs"]
    assert found["token_logprobs"][0] is None
    assert found["top_logprobs"][0] is None
    assert found["token_logprobs"][1 : len(ids)] == expected
    assert len(found["tokens"]) == len(ids) + max_tokens
    assert "".join(found["tokens"]) == answer["text"]
    assert [
        answer["text"][offset:].startswith(token)
        for offset, token in zip(found["text_offset"], found["tokens"], strict=True)
    ]
    assert all(len(top) in (3, 4) for top in found["top_logprobs"][1:])
    if max_tokens:
        assert answer["text"] == PROMPT + texts(post(client, max_tokens=max_tokens))[0]


@pytest.mark.parametrize("body", [{"temperature": 0}, {"temperature": 1, "seed": 2}], ids=["greedy", "sampled"])
def test_scored_prompts_have_as_many_choices_as_were_asked_for(client: TestClient, body: dict[str, Any]) -> None:
    body |= {"prompt": [PROMPT, "import os"], "n": 2, "echo": True, "logprobs": 0, "max_tokens": 0}
    whole = post(client, **body)
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3]
    assert texts(whole) == [PROMPT, PROMPT, "import os", "import os"]
    streamed = [choice for chunk in stream(client, **body) for choice in chunk["choices"]]
    assert sorted(choice["index"] for choice in streamed) == [0, 1, 2, 3]


def test_zero_tokens_generate_nothing(client: TestClient) -> None:
    answer = post(client, max_tokens=0)
    assert (texts(answer), answer["usage"]["completion_tokens"]) == ([""], 0)
    assert texts(post(client, max_tokens=0, echo=True)) == [PROMPT]


def test_stop_is_not_part_of_the_text(client: TestClient) -> None:
    whole = texts(post(client, max_tokens=24))[0]
    stop = whole[4:6]
    answer = post(client, max_tokens=24, stop=stop)
    assert texts(answer) == [whole[: whole.index(stop)]]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert (
        "".join(each["choices"][0]["text"] for each in stream(client, max_tokens=24, stop=[stop])) == texts(answer)[0]
    )


def test_bias_bans_and_forces(client: TestClient, model: Model) -> None:
    first = post(client, max_tokens=1, return_token_ids=True)["choices"][0]["token_ids"][0]
    banned = post(client, max_tokens=1, return_token_ids=True, logit_bias={str(first): -100})
    assert banned["choices"][0]["token_ids"] != [first]
    forced = post(client, max_tokens=3, return_token_ids=True, logit_bias={"65": 100})
    assert forced["choices"][0]["token_ids"] == [65, 65, 65]
    ended = post(client, max_tokens=3, stop_token_ids=[65], logit_bias={"65": 100})["choices"][0]
    assert (ended["text"], ended["finish_reason"]) == ("", "stop")
    # lm-eval drops the last log probability, whatever token it is of: it must be there.
    body = {"max_tokens": 3, "stop_token_ids": [65], "logit_bias": {"65": 100}, "logprobs": 0, "return_token_ids": True}
    ended = post(client, **body)["choices"][0]
    assert (ended["token_ids"], len(ended["logprobs"]["token_logprobs"])) == ([65], 1)


def test_temperature_zero_takes_what_editors_always_send(client: TestClient) -> None:
    assert texts(post(client, top_p=0.5, top_k=40, min_p=0.1, seed=4)) == texts(post(client))


def test_suffix_ends_the_text_and_says_so(client: TestClient) -> None:
    whole = texts(post(client, max_tokens=24))[0]
    lines = whole.splitlines()
    answer = client.post(
        "/v1/completions",
        json={
            "prompt": PROMPT,
            "max_tokens": 24,
            "temperature": 0,
            "suffix": f"\n{lines[1]}\n" if len(lines) > 1 else "x",
        },
    )
    assert answer.headers["x-suffix"] == "stop-only"
    assert whole.startswith(answer.json()["choices"][0]["text"])


@pytest.mark.parametrize(
    ("options", "with_usage", "last_is_usage"),
    [
        (None, 0, False),
        ({"include_usage": True}, 1, True),
        ({"include_usage": True, "continuous_usage_stats": True}, 2, True),
    ],
)
def test_usage_in_a_stream(client: TestClient, options: Any, with_usage: int, last_is_usage: bool) -> None:
    chunks = stream(client, stream_options=options)
    counted = [chunk for chunk in chunks if chunk.get("usage")]
    assert len(counted) == (0, 1, len(chunks))[with_usage]
    assert (chunks[-1]["choices"] == []) == last_is_usage
    if counted:
        assert counted[-1]["usage"]["completion_tokens"] == 12


@pytest.mark.parametrize("body", [{}, {"temperature": 0.8, "seed": 11}], ids=["greedy", "seeded"])
def test_answers_do_not_depend_on_who_else_asks(client: TestClient, body: dict[str, Any]) -> None:
    prompts = [f"def function_{number}(a, b):\n    " for number in range(8)]

    def choices(prompt: str) -> Any:
        return post(client, prompt=prompt, logprobs=1, **body)["choices"]

    alone = list(map(choices, prompts))
    with ThreadPoolExecutor(8) as pool:
        among = list(pool.map(choices, prompts))
    cached = list(map(choices, prompts))
    assert alone == among == cached


def test_prefix_that_was_read_is_not_read_again(client: TestClient) -> None:
    prompt = "# a long beginning that two requests share, word for word\n" * 3
    post(client, prompt=prompt)
    assert post(client, prompt=prompt + "x = 1\n")["usage"]["prompt_tokens_details"]["cached_tokens"] > 20


BAD: list[tuple[dict[str, Any], str | None]] = [
    ({"prompt": ""}, None),
    ({"prompt": []}, "prompt"),
    ({"prompt": 5}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": [1, "x"]}, None),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [10**30]}, "prompt"),
    ({"prompt": [1.5]}, "prompt"),
    ({"prompt": [True]}, "prompt"),
    ({"prompt": ["x"] * 65}, "prompt"),
    ({"prompt": "\ud800"}, None),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"max_tokens": 10**12}, "max_tokens"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 1.1}, "top_p"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"n": 5, "temperature": 1}, None),
    ({"n": 3, "best_of": 2}, "best_of"),
    ({"best_of": 3, "stream": True, "temperature": 1}, "best_of"),
    ({"logprobs": 21}, "logprobs"),
    ({"logprobs": True}, "logprobs"),
    ({"echo": 1}, "echo"),
    ({"stop": [1]}, "stop"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": "a" * 257}, "stop"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias"),
    ({"logit_bias": {"99999999": 1}}, "logit_bias"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"seed": 1.5}, "seed"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stop_token_ids": [-5]}, "stop_token_ids"),
    ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
    ({"model": 5}, "model"),
]


@pytest.mark.parametrize(("body", "param"), BAD, ids=[json.dumps(body)[:40] for body, _ in BAD])
def test_bad_field_is_refused_and_the_server_goes_on(
    client: TestClient, body: dict[str, Any], param: str | None
) -> None:
    raw = json.dumps({"prompt": PROMPT, "max_tokens": 2, "temperature": 0} | body)
    answer = client.post("/v1/completions", content=raw, headers={"content-type": "application/json"})
    if body == {"prompt": ""}:
        assert answer.status_code == 200  # an empty text stands for the end of text, as OpenAI's default does
        return
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    if param:
        assert error["param"] == param
    assert texts(post(client, max_tokens=1))


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"temperature": NaN}'])
def test_body_that_is_no_request_is_refused(client: TestClient, raw: bytes) -> None:
    answer = client.post("/v1/completions", content=raw)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_prompt_beyond_the_context_names_both_numbers(client: TestClient, model: Model) -> None:
    context = model.runtime.config.context_length
    answer = client.post("/v1/completions", json={"prompt": [5] * (context + 7), "max_tokens": 1})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
    assert str(context) in error["message"]
    assert str(context + 7) in error["message"]
    cut = post(client, prompt=[5] * (context + 7), truncate_prompt_tokens=10)
    assert cut["usage"]["prompt_tokens"] == 10


def test_unknown_model_is_404_and_unknown_fields_are_named(client: TestClient) -> None:
    answer = client.post("/v1/completions", json={"prompt": "x", "model": "../../etc"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    answer = client.post("/v1/completions", json={"prompt": "x", "max_tokens": 1, "foo": 1, "bar": 2, "user": "u"})
    assert answer.headers["x-ignored-fields"] == "bar, foo"


def test_deadline_ends_with_what_there_is(client: TestClient, model: Model) -> None:
    params = GenerationParams(max_new_tokens=4)
    assert params.max_seconds is None
    from tests.server.http.conftest import serving

    with serving(model, max_seconds=1e-9) as impatient:
        answer = post(impatient, max_tokens=30)["choices"][0]
        assert (answer["finish_reason"], answer["x_reason"]) == ("length", "deadline")
