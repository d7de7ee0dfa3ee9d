"""An editor's newer request replaces its older one, and nobody else's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.testclient import TestClient

from codegen_edge.generation.model import Model
from tests.server.dialects.recorded import recorded, send, serving, slow_steps, wait_until_busy

LONG: dict[str, dict[str, Any]] = {
    "llama_vim_fim": {"n_predict": 60, "n_indent": 0, "input_suffix": "", "t_max_predict_ms": 0},
    "copilot_vscode": {"max_tokens": 60, "stop": None, "stream": False},
    "continue_llama_cpp": {"n_predict": 60, "stop": None, "stream": False, "ignore_eos": True},
    "llm_ls_ollama": {"options": {"num_predict": 60, "temperature": 0}},
    "llm_ls_tgi": {"parameters": {"max_new_tokens": 60}},
    "tabby_completion": {"segments": {"prefix": "def fib(n):\n"}},
    "mistral_fim": {"max_tokens": 60, "stop": None, "suffix": None},
}
ENDED = 499
STEP_SECONDS = 0.03


def both(
    model: Model,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    second: str,
    headers: tuple[dict[str, str], dict[str, str]],
) -> tuple[int, int]:
    """Statuses of a long request, and of one that comes while it runs."""

    def post(client: TestClient, asked: str, further: dict[str, str]) -> int:
        request = recorded(asked)
        body = {**request["body"], **LONG.get(asked, {})}
        answer = client.post(
            request["path"],
            json={key: value for key, value in body.items() if value is not None},
            headers=request["headers"] | further,
        )
        return int(answer.status_code)

    with serving(model) as client, slow_steps(monkeypatch, model, STEP_SECONDS), ThreadPoolExecutor() as pool:
        older = pool.submit(post, client, name, headers[0])
        wait_until_busy(client)
        newer = pool.submit(post, client, second, headers[1])
        return older.result(), newer.result()


@pytest.mark.parametrize("name", LONG)
def test_newer_request_of_a_client_that_names_itself_replaces_the_older_one(
    model: Model, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    editor = {"x-client-id": "editor 1"}
    assert both(model, monkeypatch, name, name, (editor, editor)) == (ENDED, 200)


def test_requests_of_two_clients_both_go_on(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ({"x-client-id": "editor 1"}, {"x-client-id": "editor 2"})
    assert both(model, monkeypatch, "llama_vim_fim", "llama_vim_fim", names) == (200, 200)


def test_slot_that_vim_names_is_a_client(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    assert both(model, monkeypatch, "llama_vim_fim", "llama_vim_fim", ({}, {})) == (ENDED, 200)


def test_warming_up_replaces_no_completion(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    assert both(model, monkeypatch, "llama_vim_fim", "llama_vim_warm_up", ({}, {})) == (200, 200)
    editor = {"x-client-id": "editor 1"}
    assert both(model, monkeypatch, "llama_vim_fim", "llama_vim_warm_up", (editor, editor)) == (200, 200)


def test_without_a_name_nobody_is_replaced(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    assert both(model, monkeypatch, "continue_llama_cpp", "continue_llama_cpp", ({}, {})) == (200, 200)


def test_stream_that_is_replaced_ends_with_an_error(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(model) as client, slow_steps(monkeypatch, model, STEP_SECONDS), ThreadPoolExecutor() as pool:
        older = pool.submit(send, client, "llama_vim_fim", **LONG["llama_vim_fim"], stream=True)
        wait_until_busy(client)
        assert send(client, "llama_vim_fim").status_code == 200
        assert '"code":499' in older.result().text.rsplit("data: ", 1)[-1]
