"""Compiles grammars; run as a program, in a process whose end harms nobody.

It imports nothing of codegen-edge, so that the process starts fast. The process that asks compiles the same again, by
the same functions, when the trial went well.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

# Measured with grammars made to be expensive: a step stays below 0.2 s and 30 MB with these, and takes seconds and
# 220 MB with the library's own limits. An object of 600 optional properties still fits.
_LIMITS: Mapping[str, Any] = {
    "initial_lexer_fuel": 100_000,
    "step_lexer_fuel": 50_000,
    "step_max_items": 20_000,
    "max_items_in_row": 600,
    "max_lexer_states": 20_000,
}
# JSON has one space or one line end with its indentation at most where white space may stand: base models loop in it.
_JSON_OPTIONS = {
    "lenient": False,
    "coerce_one_of": False,
    "whitespace_flexible": True,
    "whitespace_pattern": r"[ ]|\r?\n[ \t]{0,32}",
    "item_separator": ",",
    "key_separator": ":",
}
_END = b"<end of what the grammar describes>"
_MOST_BYTES = 200 * 2**20  # that a trial may take
_MOST_MESSAGE = 300  # characters


class Vocabulary:
    """A tokenizer as llguidance asks for it.

    The end of text is an id of its own behind the others: where a text may end is asked for by `is_accepting`.

    Args:
        tokens: the bytes of every id.
        special_ids: that stand for no text.
        encode: token ids of a text.
    """

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokens: Sequence[bytes], special_ids: Sequence[int], encode: Callable[[str], list[int]]) -> None:
        self.eos_token_id = len(tokens)
        self.tokens = [*tokens, _END]
        self.special_token_ids = [*special_ids, self.eos_token_id]
        self._encode = encode

    def __call__(self, text: str | bytes) -> list[int]:
        """Token ids."""
        return self._encode(text if isinstance(text, str) else text.decode("utf-8", errors="replace"))


def grammar_text(kind: str, text: str) -> str:
    """A description as llguidance's matcher takes it.

    Raises:
        ValueError: it is malformed.
    """
    from llguidance import LLMatcher
    from llguidance.gbnf_to_lark import gbnf_to_lark

    match kind:
        case "json_schema":
            return LLMatcher.grammar_from_json_schema(text, overrides=_JSON_OPTIONS)  # type: ignore[arg-type]
        case "regex":
            return LLMatcher.grammar_from_regex(text)
        case "choice":
            return LLMatcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, json.loads(text))))
        case "gbnf":
            return LLMatcher.grammar_from_lark(gbnf_to_lark(text))
    return LLMatcher.grammar_from_lark(text)


def new_matcher(table: LLTokenizer, grammar: str) -> LLMatcher:
    """A matcher with bounded steps.

    Args:
        table: the tokens.
        grammar: from `grammar_text`.

    Raises:
        ValueError: the grammar is malformed, or too complex.
    """
    from llguidance import LLMatcher, LLParserLimits

    matcher = LLMatcher(table, grammar, log_level=0, limits=LLParserLimits(verbose_errors=False, **_LIMITS))
    require_no_error(matcher)
    return matcher


def require_no_error(matcher: LLMatcher) -> None:
    """Raise ValueError where the matcher's last call failed: its methods only note it."""
    error = matcher.get_error()
    if error:
        raise ValueError(_short(error))


def _short(message: str) -> str:
    if "NoExtension" in message:
        return "no text fits it"
    text = " ".join(message.replace("<non-verbose/>", "").split())
    return text if len(text) <= _MOST_MESSAGE else f"{text[:_MOST_MESSAGE]}…"


def _greedy(tokens: Sequence[bytes]) -> Callable[[str], list[int]]:
    """An encoder that takes the longest token each time: near enough to try a grammar with."""
    ids = {token: token_id for token_id, token in enumerate(tokens)}
    longest = max(map(len, tokens))

    def encode(text: str) -> list[int]:
        rest, found = text.encode(), []
        while rest:
            length = next((size for size in range(min(longest, len(rest)), 0, -1) if rest[:size] in ids), 1)
            found += [ids[rest[:length]]] if rest[:length] in ids else []
            rest = rest[length:]
        return found

    return encode


def _tried(table: LLTokenizer, kind: str, text: str) -> str:
    """The compiled description, when its first step went well."""
    grammar = grammar_text(kind, text)
    matcher = new_matcher(table, grammar)
    matcher.compute_bitmask()
    require_no_error(matcher)
    if matcher.is_stopped() and not matcher.is_accepting():
        raise ValueError("no text fits it")
    return grammar


def _bound_memory() -> None:
    try:
        import resource

        taken = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    except (ImportError, OSError):  # not on Linux: time is the only bound
        return
    resource.setrlimit(resource.RLIMIT_AS, (taken + _MOST_BYTES, taken + _MOST_BYTES))


def _set_alarm(seconds: float) -> None:
    """End this process after a time, also when the one that asked is gone; 0 takes that back."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _serve() -> None:
    """Answer lines of [kind, text] with [grammar, null] or [null, error]; the first line is the tokenizer."""
    given = json.loads(sys.stdin.readline())
    sys.path[:] = given["path"]
    from llguidance import LLTokenizer

    tokens = [token.encode("latin-1") for token in given["tokens"]]
    vocabulary = Vocabulary(tokens, given["special_ids"], _greedy(tokens))
    table = LLTokenizer(vocabulary)  # type: ignore[arg-type]
    _bound_memory()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        _set_alarm(2 * given["seconds"])
        answer: tuple[str | None, str | None]
        try:
            answer = (_tried(table, *json.loads(line)), None)
        except MemoryError:
            answer = (None, "it takes too much memory")
        except RecursionError:
            answer = (None, "it is nested too deeply")
        # gbnf_to_lark raises bare Exception; what a panic of the library raises is no Exception at all.
        except BaseException as exc:  # noqa: BLE001
            answer = (None, _short(str(exc)))
        _set_alarm(0)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
