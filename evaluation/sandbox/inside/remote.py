"""Strict mode: the tests run in the warden and call the program in its own process, by values written as literals.

Nothing of the program's reaches the tests but plain values: no object with a lying `__eq__`, no patched module, no
frame. The program's process never holds the tests or the nonce.
"""

from __future__ import annotations

import builtins
import contextlib
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from codegen_edge.evaluation.sandbox.frames import ChannelClosedError, FrameError, receive, send
from codegen_edge.evaluation.sandbox.inside.assertions import names_in
from codegen_edge.evaluation.sandbox.inside.channel import OwnChannel
from codegen_edge.evaluation.sandbox.inside.failures import described
from codegen_edge.evaluation.sandbox.inside.imports import imported_names
from codegen_edge.evaluation.sandbox.job import MAX_MESSAGE_BYTES
from codegen_edge.evaluation.sandbox.values import ValueEncodingError, decode, encode


class RemoteError(Exception):
    """The program raised an exception of a class of its own."""


def serve_calls(channel: OwnChannel, namespace: Mapping[str, object]) -> None:
    """Answer the warden's questions about the names in `namespace`, until it closes the channel."""
    while True:
        try:
            question = channel.receive()
        except ChannelClosedError:
            return
        if "look_up" in question:
            names = question["look_up"]
            assert isinstance(names, list)
            channel.send({"names": {name: _seen(namespace[name]) for name in names if name in namespace}})
        else:
            channel.send(_answer(namespace, question))


def _seen(value: object) -> list[object]:
    if callable(value):
        return ["callable"]
    try:
        return ["value", encode(value, is_plain=True)]
    except ValueEncodingError:
        return ["other"]


def _answer(namespace: Mapping[str, object], question: dict[str, object]) -> dict[str, object]:
    try:
        function: Callable[..., object] = namespace[str(question["call"])]  # type: ignore[assignment]
        arguments, keywords = decode(question["arguments"]), decode(question["keywords"])
        assert isinstance(arguments, tuple)
        assert isinstance(keywords, dict)
        return {"returned": encode(function(*arguments, **keywords), is_plain=True)}
    except BaseException as exc:  # noqa: BLE001 - the tests decide what an exception means, SystemExit included
        return {"raised": type(exc).__name__, "message": described(exc).partition(": ")[2]}


@dataclass(frozen=True, slots=True)
class RemoteProgram:
    """The warden's end: the program's functions, to be called from here.

    Attributes:
        channel: a descriptor to the process that serves them.
    """

    channel: int

    def namespace(self, code: types.CodeType, program: str) -> dict[str, object]:
        """What the tests' `code` uses of the program: proxies of its functions, its plain values, and its imports.

        The imports are done anew from the program's text, in this process.
        """
        names = names_in(code)
        found = imported_names(program, names.__contains__)
        answer = self._ask({"look_up": sorted(names - found.keys())}).get("names")
        if not isinstance(answer, dict):
            raise FrameError("an answer without names")
        for name, seen in answer.items():
            if name in names and seen == ["callable"]:
                found[name] = self.function(name)
            elif name in names and isinstance(seen, list) and len(seen) == 2:
                found[name] = decode(seen[1])
        return {**found, "__builtins__": builtins}

    def defines(self, name: str) -> bool:
        """Whether the program has a function of this name."""
        names = self._ask({"look_up": [name]}).get("names")
        return isinstance(names, dict) and names.get(name) == ["callable"]

    def function(self, name: str) -> Callable[..., object]:
        """A function that calls the program's function."""

        def call(*arguments: object, **keywords: object) -> object:
            question = {
                "call": name,
                "arguments": encode(arguments, is_plain=True),
                "keywords": encode(keywords, is_plain=True),
            }
            answer = self._ask(question)
            if "raised" in answer:
                raise _exception(str(answer["raised"]), str(answer.get("message", "")))
            return decode(answer.get("returned"))

        return call

    def _ask(self, question: dict[str, object]) -> dict[str, object]:
        try:
            send(self.channel, question)
        except OSError as exc:
            raise ChannelClosedError("the channel was closed") from exc
        return receive(self.channel, MAX_MESSAGE_BYTES)


def _exception(name: str, message: str) -> BaseException:
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, BaseException):
        with contextlib.suppress(TypeError):  # some take more than a text
            made: BaseException = kind(message)
            return made
    return RemoteError(f"{name}: {message}" if message else name)
