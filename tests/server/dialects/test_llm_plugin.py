"""The plugin for `llm`, run by the real package against a server on a socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from codegen_edge.generation.model import Model
from tests.server.dialects.recorded import listening

llm = pytest.importorskip("llm")

PROMPT = "def add(a, b):\n    "


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Registered as `llm` does it for the entry point."""
    from codegen_edge.server import llm_plugin

    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    monkeypatch.setenv("LLM_LOAD_PLUGINS", "")
    llm.plugins.pm.register(llm_plugin, name="codegen-edge")
    yield llm_plugin
    llm.plugins.pm.unregister(name="codegen-edge")


@pytest.fixture
def url(model: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with listening(model) as found:
        monkeypatch.setenv("LLM_CODEGEN_EDGE_URL", found)
        yield found


@pytest.mark.usefixtures("plugin", "url")
def test_llm_runs_the_model_of_the_server(model: Model) -> None:
    found = llm.get_model("tiny")
    expected = model.generate(PROMPT, max_new_tokens=12).text
    pieces = list(found.prompt(PROMPT, max_tokens=12, temperature=0))
    assert len(pieces) > 1
    assert "".join(pieces) == expected
    assert found.prompt(PROMPT, max_tokens=12, temperature=0, stream=False).text() == expected


@pytest.mark.usefixtures("plugin", "url")
def test_conversation_goes_before_the_prompt(model: Model) -> None:
    conversation = llm.get_model("tiny").conversation()
    first = conversation.prompt("import os", max_tokens=4, temperature=0).text()
    second = conversation.prompt("import sys", max_tokens=4, temperature=0).text()
    assert second == model.generate(f"import os{first}\nimport sys", max_new_tokens=4).text


@pytest.mark.usefixtures("plugin", "url")
def test_command_prints_the_completion(model: Model) -> None:
    from click.testing import CliRunner
    from llm.cli import cli

    arguments = ["prompt", "-m", "tiny", PROMPT, "-o", "temperature", "0", "-o", "max_tokens", "12", "--no-log"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert result.output.strip("\n") == model.generate(PROMPT, max_new_tokens=12).text.strip("\n")


@pytest.mark.usefixtures("plugin", "url")
def test_what_the_server_refuses_is_an_error_of_llm() -> None:
    found = llm.get_model("tiny")
    with pytest.raises(llm.ModelError, match="context"):
        found.prompt("x" * 200_000).text()
    with pytest.raises(llm.ModelError, match="roles"):
        found.prompt("x", system="y").text()


def test_key_is_sent(plugin: Any, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(model, api_keys=("secret",)) as url:
        monkeypatch.setenv("LLM_CODEGEN_EDGE_URL", url)
        with pytest.warns(UserWarning, match="401"):
            plugin.register_models(lambda model: pytest.fail("no key was given"))
        monkeypatch.setenv("LLM_CODEGEN_EDGE_KEY", "secret")
        assert llm.get_model("tiny").prompt("a", max_tokens=2).text() is not None


def test_without_a_server_there_are_no_models(plugin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    monkeypatch.setattr(plugin, "DEFAULT_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("LLM_CODEGEN_EDGE_URL", raising=False)
    plugin.register_models(found.append)
    assert not found
    monkeypatch.setenv("LLM_CODEGEN_EDGE_URL", "http://127.0.0.1:9")
    with pytest.warns(UserWarning, match="no models at"):
        plugin.register_models(found.append)
    assert not found


@pytest.mark.usefixtures("plugin", "url")
def test_server_that_goes_away_is_an_error_of_llm(monkeypatch: pytest.MonkeyPatch) -> None:
    found = llm.get_model("tiny")
    monkeypatch.setattr(found, "_url", "http://127.0.0.1:9")
    with pytest.raises(llm.ModelError, match="cannot be reached"):
        found.prompt("a").text()


def test_error_inside_a_stream_is_an_error_of_llm(plugin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    event = json.dumps({"error": {"message": "it broke"}})

    class Answer:
        def __enter__(self) -> Iterator[bytes]:
            return iter([b": ping\n", b"\n", f"data: {event}\n".encode(), b"data: [DONE]\n"])

        def __exit__(self, *args: object) -> None:
            pass

    monkeypatch.setattr("urllib.request.urlopen", lambda *args, **options: Answer())
    with pytest.raises(llm.ModelError, match="it broke"):
        plugin.CodegenEdge("tiny", "http://localhost").prompt("a").text()
