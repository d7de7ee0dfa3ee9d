"""Which texts a request allows: OpenAI's response_format and vLLM's structured_outputs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from codegen_edge.errors import InvalidInputError, RuntimeUnavailableError
from codegen_edge.generation.constraints import Grammar, compile_grammar
from codegen_edge.server.engine import Job, QueueFullError
from codegen_edge.server.http.errors import ApiError, bad_request
from codegen_edge.server.http.fields import Fields
from codegen_edge.tokenizer import Tokenizer

_MOST_WAITING = 16  # grammars; each may take seconds
_RETRY_SECONDS = 5.0
_NAMES = ("json", "json_object", "regex", "choice", "grammar")


@dataclass(frozen=True, slots=True)
class AskedGrammar:
    """A grammar and the field of the request that it came in."""

    grammar: Grammar
    field: str


def read_grammar(fields: Fields) -> AskedGrammar | None:
    """The one grammar that a request asks for.

    Raises:
        ApiError: 400 with the name of the field: a description is malformed, two were given, or one with `stop` or
            `suffix`, which may cut a text before it is whole.
    """
    found = [
        AskedGrammar(grammar, name)
        for name, read in (("response_format", _response_format), ("structured_outputs", _structured_outputs))
        if (grammar := _read(fields, name, read)) is not None
    ]
    if len(found) > 1:
        raise bad_request("response_format and structured_outputs do not go together", "structured_outputs")
    if not found:
        return None
    for name in ("stop", "suffix"):
        if fields.get(name):
            raise bad_request(f"{name} does not go with {found[0].field}: it may cut a text before it is whole", name)
    return found[0]


def _read(fields: Fields, name: str, read: Any) -> Grammar | None:
    given = fields.get(name)
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise bad_request(f"{name} must be an object", name)
    try:
        grammar: Grammar | None = read({key: value for key, value in given.items() if value is not None})
    except InvalidInputError as exc:
        raise bad_request(f"{name}: {exc}", name) from exc
    return grammar


def _response_format(given: Mapping[str, Any]) -> Grammar | None:
    kind = given.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return Grammar.json_object()
    if kind != "json_schema":
        raise InvalidInputError(f"type must be text, json_object or json_schema, got {str(kind)[:60]!r}")
    inner = given.get("json_schema")
    if not isinstance(inner, Mapping) or not isinstance(inner.get("schema"), Mapping):
        raise InvalidInputError("json_schema must be an object with a schema")
    return Grammar.json_schema(inner["schema"])


def _structured_outputs(given: Mapping[str, Any]) -> Grammar | None:
    for name in given:
        if name not in _NAMES:
            raise InvalidInputError(f"{str(name)[:60]!r} is not known; there are {', '.join(_NAMES)}")
    wanted = [name for name, value in given.items() if value is not False]
    if len(wanted) != 1:
        raise InvalidInputError(f"give exactly one of {', '.join(_NAMES)}")
    (name,) = wanted
    if name == "json_object":
        return Grammar.json_object()
    if name == "json":
        return Grammar.json_schema(given[name])
    if name == "choice":
        return Grammar.choice(given[name])
    return Grammar.regex(given[name]) if name == "regex" else Grammar.of_text(given[name])


class GrammarThreads:
    """Compiles grammars beside the event loop; one at a time, and few that wait."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_MOST_WAITING, thread_name_prefix="codegen-edge-grammar")
        self._num_waiting = 0

    async def constrained(self, job: Job, asked: AskedGrammar, tokenizer: Tokenizer) -> Job:
        """The job with its grammar compiled.

        Raises:
            ApiError: 400 where the grammar cannot be used.
            QueueFullError: too many are being compiled.
        """
        if self._num_waiting >= _MOST_WAITING:
            raise QueueFullError("too many grammars are being compiled", retry_after=_RETRY_SECONDS)
        self._num_waiting += 1
        try:
            running = asyncio.get_running_loop()
            constraint = await running.run_in_executor(self._threads, compile_grammar, asked.grammar, tokenizer)
            return replace(job, params=replace(job.params, constraint=constraint))
        except InvalidInputError as exc:
            raise bad_request(f"{asked.field}: {' '.join(str(exc).split())}", asked.field) from exc
        except RuntimeUnavailableError as exc:
            raise ApiError(400, f"{asked.field}: this server lacks llguidance", param=asked.field) from exc
        finally:
            self._num_waiting -= 1
