"""A plugin for the command `llm` (simonw/llm): the models of a running server, by the names that it gives them.

The server's address is taken from LLM_CODEGEN_EDGE_URL, http://127.0.0.1:8080 where it is not set; a key from
`llm keys set codegen-edge` or LLM_CODEGEN_EDGE_KEY, where the server asks for one.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import llm
from pydantic import Field

URL_VARIABLE, KEY_VARIABLE, KEY_ALIAS = "LLM_CODEGEN_EDGE_URL", "LLM_CODEGEN_EDGE_KEY", "codegen-edge"
DEFAULT_URL = "http://127.0.0.1:8080"
_LOOK_SECONDS = 2.0  # `llm` looks for models at every start
_READ_SECONDS = 600.0  # the server sends a ping every 15 s
_DATA, _DONE = "data:", "[DONE]"


@llm.hookimpl
def register_models(register: Callable[..., None]) -> None:
    """Register every model that the server names; none where it does not run."""
    url = os.environ.get(URL_VARIABLE, DEFAULT_URL).rstrip("/")
    try:
        with urllib.request.urlopen(_request(f"{url}/v1/models", _key()), timeout=_LOOK_SECONDS) as answer:
            names = [model["id"] for model in json.load(answer)["data"]]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        if URL_VARIABLE in os.environ:  # somebody expects it to be there
            warnings.warn(f"{URL_VARIABLE}: no models at {url}: {exc}", stacklevel=1)
        return
    for name in names:
        register(CodegenEdge(name, url))


class CodegenEdge(llm.Model):
    """A model of a server. It continues the prompt; earlier prompts and answers of a conversation go before it.

    Args:
        name: of the model.
        url: of the server.
    """

    can_stream = True

    class Options(llm.Options):
        """What /v1/completions takes."""

        max_tokens: int | None = Field(default=128, ge=1, description="Most tokens to generate")
        temperature: float | None = Field(default=None, ge=0, le=2, description="0 takes the likeliest token")
        top_p: float | None = Field(default=None, ge=0, le=1, description="Share of the probability to sample from")
        seed: int | None = Field(default=None, description="Repeats a sample")
        stop: str | None = Field(default=None, description="Text at which to stop")
        suffix: str | None = Field(default=None, description="What follows; its first line is where to stop")

    def __init__(self, name: str, url: str) -> None:
        self.model_id = name
        self._url = url

    def __str__(self) -> str:
        return f"codegen-edge: {self.model_id}"

    def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.Response,
        conversation: llm.Conversation | None = None,
    ) -> Iterator[str]:
        """The completion, piece by piece."""
        if prompt.system:
            raise llm.ModelError("the model has no roles: put what it should see into the prompt")
        earlier = [each for each in conversation.responses if isinstance(each, llm.Response)] if conversation else []
        text = "".join(f"{each.prompt.prompt}{each.text()}\n" for each in earlier) + (prompt.prompt or "")
        options = prompt.options.model_dump(exclude_none=True)
        body = {**options, "model": self.model_id, "prompt": text, "stream": stream}
        try:
            with urllib.request.urlopen(
                _request(f"{self._url}/v1/completions", _key(), body), timeout=_READ_SECONDS
            ) as answer:
                for found in _answers(answer) if stream else [json.load(answer)]:
                    if "error" in found:
                        raise llm.ModelError(found["error"]["message"])
                    response.response_json = {name: value for name, value in found.items() if name != "choices"}
                    yield from (choice["text"] for choice in found["choices"])
        except urllib.error.HTTPError as exc:
            raise llm.ModelError(_message(exc)) from exc
        except OSError as exc:
            raise llm.ModelError(f"{self._url} cannot be reached: {exc}") from exc


def _key() -> str | None:
    key: str | None = llm.get_key(alias=KEY_ALIAS, env=KEY_VARIABLE)
    return key


def _request(url: str, key: str | None, body: dict[str, Any] | None = None) -> urllib.request.Request:
    headers = {"Content-Type": "application/json"} | ({} if key is None else {"Authorization": f"Bearer {key}"})
    return urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)


def _answers(lines: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """The objects of an event stream."""
    for raw in lines:
        line = raw.decode().strip()
        if line.startswith(_DATA) and not line.endswith(_DONE):
            yield json.loads(line.removeprefix(_DATA))


def _message(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"{error.code} {error.reason}"
