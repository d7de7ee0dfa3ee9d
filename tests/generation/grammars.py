"""What tests of constraints share: a tokenizer, models whose logits are noise, and the mask by brute force."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codegen_edge.generation.constraints import Constraint, Grammar, compile_grammar
from codegen_edge.generation.constraints.matcher import GrammarConstraint
from codegen_edge.runtimes.backends.scripted import ScriptedRuntime
from codegen_edge.tokenizer import Tokenizer

CHECKPOINT = Path(__file__).resolve().parents[2] / "checkpoints" / "codegen-5M-mono"
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["new", "old"]}, "maxItems": 3},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer(CHECKPOINT / "tokenizer.json")


def compiled(grammar: Grammar) -> GrammarConstraint:
    return compile_grammar(grammar, tokenizer())


def noise(sequence: tuple[int, ...]) -> NDArray[np.float32]:
    """Logits that depend on the last three tokens; short tokens are likelier, so that texts end."""
    vocab_size = tokenizer().vocab_size + 50  # as in CodeGen, rows of the LM head without a token
    logits = np.random.default_rng(list(sequence[-3:])).normal(size=vocab_size).astype(np.float32) * 3
    logits[: len(_lengths())] -= _lengths()
    return logits


@cache
def _lengths() -> NDArray[np.float32]:
    return np.array([len(tokenizer().token_bytes(each)) for each in range(tokenizer().vocab_size)], np.float32)


def noise_runtime(kind: type[ScriptedRuntime] = ScriptedRuntime) -> ScriptedRuntime:
    end = tokenizer().end_of_text_id
    assert end is not None
    return kind(noise, vocab_size=tokenizer().vocab_size + 50, eos_token_id=end)


def brute_force_mask(constraint: GrammarConstraint) -> NDArray[np.bool_]:
    """Every token tried by itself; where one text only can follow, the first token that the tokenizer makes of it."""
    matcher = constraint._matcher
    forced = matcher.compute_ff_tokens()
    if forced:
        assert matcher.validate_tokens(forced) == len(forced)
        return np.isin(np.arange(tokenizer().vocab_size), forced[:1])
    return np.array([matcher.validate_tokens([each]) == 1 for each in range(tokenizer().vocab_size)])


class FixedTexts:
    """A constraint without a library: the new tokens are those of one of some sequences."""

    def __init__(self, sequences: Sequence[Sequence[int]], vocab_size: int, taken: Sequence[int] = ()) -> None:
        self._sequences, self._vocab_size, self.taken = sequences, vocab_size, list(taken)
        self.num_advanced = 0

    @property
    def is_accepting(self) -> bool:
        return self.taken in [list(each) for each in self._sequences]

    def mask(self) -> NDArray[np.bool_]:
        size = len(self.taken)
        following = [each[size] for each in self._sequences if list(each[:size]) == self.taken and len(each) > size]
        return np.isin(np.arange(self._vocab_size), following)

    def advance(self, token_id: int) -> None:
        assert self.mask()[token_id], "the loop takes what is allowed only"
        self.num_advanced += 1
        self.taken.append(token_id)

    def rollback(self, num_tokens: int) -> None:
        assert 0 < num_tokens <= len(self.taken)
        del self.taken[-num_tokens:]

    def fork(self) -> Constraint:
        return FixedTexts(self._sequences, self._vocab_size, self.taken)
