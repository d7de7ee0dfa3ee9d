"""From a grammar's description to a constraint for one tokenizer."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from copy import copy
from weakref import WeakKeyDictionary, finalize

from codegen_edge.dependencies import install_command
from codegen_edge.errors import InvalidInputError, RuntimeUnavailableError
from codegen_edge.generation.constraints.grammar import Grammar
from codegen_edge.generation.constraints.matcher import GrammarConstraint
from codegen_edge.generation.constraints.trial import Vocabulary, new_matcher
from codegen_edge.generation.constraints.trial_process import TrialProcess
from codegen_edge.tokenizer import END_OF_TEXT, Tokenizer

_MOST_KEPT = 32  # compiled grammars of a tokenizer


def compile_grammar(grammar: Grammar, tokenizer: Tokenizer) -> GrammarConstraint:
    """Compile a grammar, in seconds at most; the result may be given to any number of generations.

    The grammar is first compiled in a process of its own, with limits on time and memory. Compiled grammars are kept,
    the last 32 of a tokenizer.

    Args:
        grammar: which texts are allowed.
        tokenizer: of the model that generates.

    Raises:
        InvalidInputError: the grammar is malformed, asks for what cannot be enforced, fits no text, or takes too much.
        RuntimeUnavailableError: llguidance is not installed.
        BackendError: no process can be started to compile it in.
    """
    with _lock:
        compiler = _compilers.get(tokenizer)
        if compiler is None:
            compiler = _compilers[tokenizer] = _Compiler(tokenizer)
    return compiler.compile(grammar)


class _Compiler:
    """Compiles for one tokenizer, which it does not keep alive."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        try:
            from llguidance import LLTokenizer
        except ImportError as exc:
            raise RuntimeUnavailableError(f"a grammar needs llguidance: {install_command('grammar')}") from exc
        tokens = [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)]
        end_id = tokenizer.end_of_text_id
        special_ids = [] if end_id is None else [end_id]
        self._table = LLTokenizer(Vocabulary(tokens, special_ids, _encoder(tokenizer)))  # type: ignore[arg-type]
        self._vocab_size = len(tokens)
        self._trial = TrialProcess(tokens, special_ids)
        finalize(tokenizer, self._trial.close)  # also at the program's end
        self._lock = threading.Lock()  # of what is kept
        self._trial_lock = threading.Lock()  # held for seconds
        self._kept: OrderedDict[Grammar, GrammarConstraint] = OrderedDict()

    def compile(self, grammar: Grammar) -> GrammarConstraint:
        kept = self._known(grammar)
        if kept is not None:
            return kept
        compiled = self._compiled(grammar)
        with self._lock:
            self._kept[grammar] = compiled
            if len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        return compiled

    def _known(self, grammar: Grammar) -> GrammarConstraint | None:
        with self._lock:
            if grammar in self._kept:
                self._kept.move_to_end(grammar)
            return self._kept.get(grammar)

    def _compiled(self, grammar: Grammar) -> GrammarConstraint:
        with self._trial_lock:
            text = self._trial.compile(grammar.kind, grammar.text)
        try:
            return GrammarConstraint(new_matcher(self._table, text), self._vocab_size)
        except ValueError as exc:
            raise InvalidInputError(f"the {grammar.kind} cannot be used: {exc}") from exc


def _encoder(tokenizer: Tokenizer) -> Callable[[str], list[int]]:
    """Token ids of a text, in which the end of text is text as any other."""
    encode = copy(tokenizer).encode  # the tokenizer itself is a weak key, which its own value must not hold
    first, second = END_OF_TEXT[:2], END_OF_TEXT[2:]

    def encode_as_text(text: str) -> list[int]:
        parts = text.replace(END_OF_TEXT, f"{first}{END_OF_TEXT}{second}").split(END_OF_TEXT)
        return [token_id for part in parts for token_id in encode(part)]

    return encode_as_text


_lock = threading.Lock()
_compilers: WeakKeyDictionary[Tokenizer, _Compiler] = WeakKeyDictionary()
