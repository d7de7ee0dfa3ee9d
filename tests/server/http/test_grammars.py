"""response_format and structured_outputs: whole texts, errors that name the field, nobody waits for a compiler."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import pytest
from starlette.testclient import TestClient

from codegen_edge.generation.constraints import Grammar, compile_grammar, trial_process
from codegen_edge.generation.model import Model
from codegen_edge.server.http import grammars

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "ok": {"type": "boolean"}},
    "required": ["name", "ok"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": SCHEMA}}
DOUBLING = "root ::= a0\n" + "\n".join(f"a{i} ::= a{i + 1} a{i + 1}" for i in range(2000)) + '\na2000 ::= "x"'


def post(client: TestClient, path: str = "/v1/completions", **body: Any) -> Any:
    prompt = {"messages": [{"role": "user", "content": "x = "}]} if "chat" in path else {"prompt": "x = "}
    return client.post(path, json={"max_tokens": 100, "temperature": 0} | prompt | body)


def choice(client: TestClient, **body: Any) -> tuple[str, str]:
    answer = post(client, **body)
    assert answer.status_code == 200, answer.text
    (first,) = answer.json()["choices"]
    return first["message"]["content"] if "message" in first else first["text"], first["finish_reason"]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_json_schema_gives_json_that_is_valid(client: TestClient, model: Model, path: str) -> None:
    text, reason = choice(client, path=path, response_format=FORMAT)
    assert reason == "stop"
    jsonschema.validate(json.loads(text), SCHEMA)
    constraint = compile_grammar(Grammar.json_schema(SCHEMA), model.tokenizer)
    assert text == model.generate("x = ", max_new_tokens=100, constraint=constraint).text


def test_stream_and_samples_are_whole_texts(client: TestClient) -> None:
    answer = post(client, response_format=FORMAT, temperature=1.0, seed=1, n=3)
    for each in answer.json()["choices"]:
        assert each["finish_reason"] == "stop"
        jsonschema.validate(json.loads(each["text"]), SCHEMA)
    streamed = post(client, response_format=FORMAT, stream=True).text
    chunks = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
    assert text == choice(client, response_format=FORMAT)[0]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("structure", "texts"),
    [
        ({"choice": ["yes", "no"]}, {"yes", "no"}),
        ({"regex": "a{3}"}, {"aaa"}),
        ({"grammar": 'start: "b" "c"'}, {"bc"}),
        ({"grammar": 'root ::= "b" "d"'}, {"bd"}),
        ({"json": {"const": {"a": 1}}}, {'{"a":1}', '{"a": 1}', '{ "a": 1 }'}),
        ({"json": '{"enum": [7]}', "regex": None, "json_object": False}, {"7"}),
    ],
)
def test_structured_outputs(client: TestClient, structure: dict[str, Any], texts: set[str]) -> None:
    text, reason = choice(client, structured_outputs=structure)
    assert text in texts
    assert reason == "stop"


def test_json_object_and_text(client: TestClient) -> None:
    text, reason = choice(client, response_format={"type": "json_object"}, max_tokens=5)
    assert (text[0], reason) == ("{", "length")
    assert choice(client, structured_outputs={"json_object": True}, max_tokens=5) == (text, reason)
    plain = choice(client, max_tokens=5)
    assert choice(client, response_format={"type": "text"}, max_tokens=5) == plain


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"response_format": "json"}, "response_format", "must be an object"),
        ({"response_format": {"type": "xml"}}, "response_format", "json_schema, got 'xml'"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "an object with a schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"uniqueItems": True}}}},
            "response_format",
            "'uniqueItems'",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "strng"}}}},
            "response_format",
            "strng",
        ),
        ({"structured_outputs": {}}, "structured_outputs", "exactly one of"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs", "exactly one of"),
        ({"structured_outputs": {"structural_tag": "a"}}, "structured_outputs", "'structural_tag' is not known"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs", "the regex cannot be used"),
        ({"structured_outputs": {"regex": 1}}, "structured_outputs", "must be text"),
        ({"structured_outputs": {"choice": {"a": 1}}}, "structured_outputs", "a choice needs"),
        ({"structured_outputs": {"json": 5}}, "structured_outputs", "must hold a JSON object"),
        ({"structured_outputs": {"grammar": "hello"}}, "structured_outputs", "must be Lark"),
        ({"structured_outputs": {"regex": "a" * 70_000}}, "structured_outputs", "at most 65,536"),
        ({"structured_outputs": {"regex": "a"}, "response_format": FORMAT}, "structured_outputs", "do not go together"),
        ({"response_format": FORMAT, "stop": ["a"]}, "stop", "stop does not go with response_format"),
        ({"response_format": FORMAT, "suffix": "b\n"}, "suffix", "suffix does not go with response_format"),
    ],
)
def test_what_cannot_be_enforced_is_400(client: TestClient, body: dict[str, Any], param: str, message: str) -> None:
    answer = post(client, **body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert message in error["message"]
    assert len(error["message"].splitlines()) == 1


def test_nobody_waits_for_a_hostile_grammar(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    choice(client, structured_outputs={"regex": "warm"})
    monkeypatch.setattr(trial_process, "MOST_SECONDS", 3.0)
    with ThreadPoolExecutor(1) as threads:
        hostile = threads.submit(post, client, structured_outputs={"grammar": DOUBLING})
        time.sleep(0.3)
        for _ in range(3):
            assert client.get("/health").status_code == 200
        assert choice(client, max_tokens=2)[1] == "length"
        assert choice(client, structured_outputs={"regex": "warm"}) == ("warm", "stop")  # compiled before
        assert not hostile.done()
        refused = hostile.result()
    assert refused.status_code == 400
    assert "the gbnf takes more than" in refused.json()["error"]["message"]
    assert choice(client, structured_outputs={"regex": "after"}) == ("after", "stop")


def test_too_many_grammars_at_once_are_429(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammars, "_MOST_WAITING", 0)
    answer = post(client, structured_outputs={"regex": "a"})
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "5"
