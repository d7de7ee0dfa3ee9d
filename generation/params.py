"""What a caller may ask of a generation."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from codegen_edge.errors import InvalidInputError
from codegen_edge.generation.constraints.protocol import Constraint

FinishReason = Literal["stop", "stop_id", "end_of_text", "length", "context", "deadline", "cancelled"]
"""Why a row ended: a stop string, a truncation rule or a constraint's whole text, a stop id, the end-of-text id,
`max_new_tokens`, a full context, `max_seconds`, or its own cancel token."""

Processor = Callable[[Sequence[int], NDArray[np.float32]], NDArray[np.float32]]
"""A user's hook: the ids so far (prompt and new) and the scores [V], gives scores [V]. -inf forbids an id."""

PromptOverflow = Literal["refuse", "cut-left"]

_MAX_SEED = 2**64 - 1
_MOST = 2**31 - 1  # of a count: more would overflow somewhere below
_MOST_ROWS = 1024  # of one prompt: each has a KV cache
_MOST_TEXTS = 128  # of stop and of truncate_before: the text is searched for each of them after every token
_LONGEST_TEXT = 4096  # characters of one of them: about what a context holds at all
_LARGEST = 1e9  # of what is added to logits: far beyond any logit, and float32 can still distinguish them
_LARGEST_FACTOR = 1e6
_LARGEST_POWER = 10  # of a length
_CUTS = ("stop", "truncate_before", "single_block")
_NOT_WITH_BEAMS = ("temperature", "top_logprobs", *_CUTS, "max_seconds")
_SAMPLING = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0}  # what they are when they do nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationParams:
    """How to choose tokens and when to stop. What has transformers' name means what it means there.

    Attributes:
        max_new_tokens: the most tokens to add to each prompt.
        min_new_tokens: the end of text and stop ids are not chosen before.
        temperature: 0 chooses the likeliest token (greedy); above 0 the logits are divided by it and sampled.
        top_k: sample from the k likeliest tokens; 0 keeps all.
        top_p: sample from the smallest set of likeliest tokens whose probability reaches p; 1 keeps all.
        min_p: sample from tokens at least this many times as likely as the likeliest; 0 keeps all.
        typical_p: sample from the tokens whose surprise is nearest to the expected one, up to this probability.
        repetition_penalty: logits of ids that occurred, in the prompt too, are made worse by this factor.
        presence_penalty: taken from the logits of ids that were generated already.
        frequency_penalty: the same, for every time they were.
        no_repeat_ngram_size: no run of this many ids occurs twice; 0 allows all.
        bad_words_ids: sequences of ids that are never completed.
        logit_bias: added to the logits of ids.
        suppressed_ids: never chosen.
        forced_ids: which id is chosen at which step (0 is the first new token), whatever the logits.
        processors: hooks, called in order after the built-in rules and before temperature.
        constraint: which texts may be generated, from `compile_grammar`; it has the last word, after the rules and
            processors. The end of text and stop ids are chosen only where the text may end, and a row ends by itself
            (finish reason "stop") where nothing can follow. One that ends otherwise, with "length" for instance, is
            not complete. Nothing that cuts the text goes with it: stop, truncate_before, single_block.
        seed: makes sampling repeatable; None draws a fresh one. A row's tokens do not depend on its batch.
        n: samples for each prompt; they share its prefill, each has random numbers of its own.
        num_beams: above 1 searches for the likeliest text (beam search) and gives the `n` best.
        length_penalty: of beam search: scores are divided by length to this power.
        early_stopping: of beam search: True ends with enough finished beams, False when no better one is likely,
            "never" when none is possible.
        top_logprobs: None keeps no log probabilities, 0 those of the chosen tokens, k also of the k likeliest ones;
            of the model's own distribution, before any rule.
        stop: texts at which a row ends, 128 at most; the text is cut before the first of them.
        stop_ids: ids at which a row ends; like the end of text they bring no text.
        truncate_before: regular expressions (multi-line): the new text is cut before the first match, as CodeGen's
            tokenizer does with `truncate_before_pattern`; text is given out at the end only. One search may take a
            second; a pattern that takes longer is refused while it runs.
        single_block: whether the new text ends before its second line that starts with `print` or with `def`, the
            rule of the CodeGen paper.
        max_seconds: a row ends with what it has after this time, counted from the start of the prefill.
        prompt_overflow: what becomes of a prompt that leaves less than `max_new_tokens` of the context: "refuse" it
            only when no room is left at all, or "cut-left" its beginning.
        prefill_chunk: most tokens of a prompt in one step; bounds memory and the time to a cancellation's effect. None
            takes what the runtime reads fastest.

    Raises:
        InvalidInputError: from the constructor, naming the parameter that is out of range.
    """

    max_new_tokens: int = 128
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    bad_words_ids: Sequence[Sequence[int]] = ()
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    suppressed_ids: Sequence[int] = ()
    forced_ids: Mapping[int, int] = field(default_factory=dict)
    processors: Sequence[Processor] = ()
    constraint: Constraint | None = None
    seed: int | None = None
    n: int = 1
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    top_logprobs: int | None = None
    stop: Sequence[str] = ()
    stop_ids: Sequence[int] = ()
    truncate_before: Sequence[str] = ()
    single_block: bool = False
    max_seconds: float | None = None
    prompt_overflow: PromptOverflow = "refuse"
    prefill_chunk: int | None = None

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_texts()
        self._check_ids()
        self._check_combinations()

    def _check_numbers(self) -> None:
        for name, lowest in (
            ("max_new_tokens", 1),
            ("min_new_tokens", 0),
            ("top_k", 0),
            ("no_repeat_ngram_size", 0),
        ):
            _require_int(name, getattr(self, name), lowest=lowest)
        for name in ("n", "num_beams"):
            _require_int(name, getattr(self, name), lowest=1, highest=_MOST_ROWS)
        for name, lowest, highest in (("top_logprobs", 0, _MOST), ("prefill_chunk", 1, _MOST), ("seed", 0, _MAX_SEED)):
            if getattr(self, name) is not None:
                _require_int(name, getattr(self, name), lowest=lowest, highest=highest)
        for name, largest in (
            ("presence_penalty", _LARGEST),
            ("frequency_penalty", _LARGEST),
            ("length_penalty", _LARGEST_POWER),
        ):
            _require_number(name, getattr(self, name), largest)
        _require_number("temperature", self.temperature)
        if self.temperature < 0:
            raise InvalidInputError(f"temperature must be 0 (greedy) or more, got {self.temperature}")
        _require_number("repetition_penalty", self.repetition_penalty)
        if not 1 / _LARGEST_FACTOR <= self.repetition_penalty <= _LARGEST_FACTOR:
            raise InvalidInputError(
                f"repetition_penalty must be in {1 / _LARGEST_FACTOR:g}…{_LARGEST_FACTOR:g}, "
                f"got {self.repetition_penalty}"
            )
        for name in ("top_p", "typical_p"):
            _require_number(name, getattr(self, name))
            if not 0 < getattr(self, name) <= 1:
                raise InvalidInputError(f"{name} must be above 0 and at most 1, got {getattr(self, name)}")
        _require_number("min_p", self.min_p)
        if not 0 <= self.min_p <= 1:
            raise InvalidInputError(f"min_p must be in 0…1, got {self.min_p}")
        if self.max_seconds is not None:
            _require_number("max_seconds", self.max_seconds)
            if self.max_seconds <= 0:
                raise InvalidInputError(f"max_seconds must be above 0, got {self.max_seconds}")

    def _check_texts(self) -> None:
        for name in ("stop", "truncate_before"):
            values = getattr(self, name)
            if not isinstance(values, list | tuple) or not all(isinstance(text, str) and text for text in values):
                raise InvalidInputError(f"{name} must be a sequence of non-empty strings")
            if len(values) > _MOST_TEXTS:
                raise InvalidInputError(f"{name} must hold at most {_MOST_TEXTS} strings, got {len(values)}")
            longest = max(map(len, values), default=0)
            if longest > _LONGEST_TEXT:
                raise InvalidInputError(
                    f"{name} must hold strings of at most {_LONGEST_TEXT} characters, got one of {longest}"
                )
            object.__setattr__(self, name, tuple(values))
        for pattern in self.truncate_before:
            try:
                re.compile(pattern, re.MULTILINE)
            except (re.error, OverflowError, RecursionError) as exc:
                raise InvalidInputError(f"truncate_before holds {pattern!r}, no regular expression: {exc}") from exc
        if not isinstance(self.processors, list | tuple) or not all(map(callable, self.processors)):
            raise InvalidInputError("processors must be a sequence of callables")
        object.__setattr__(self, "processors", tuple(self.processors))

    def _check_ids(self) -> None:
        for name in ("stop_ids", "suppressed_ids"):
            object.__setattr__(self, name, _ids(name, getattr(self, name)))
        if not isinstance(self.bad_words_ids, list | tuple):
            raise InvalidInputError("bad_words_ids must be a sequence of sequences of ids")
        words = tuple(_ids("bad_words_ids", word) for word in self.bad_words_ids)
        if not all(words):
            raise InvalidInputError("bad_words_ids holds an empty sequence")
        object.__setattr__(self, "bad_words_ids", words)
        for name in ("logit_bias", "forced_ids"):
            if not isinstance(getattr(self, name), Mapping):
                raise InvalidInputError(f"{name} must map ids, got {type(getattr(self, name)).__name__}")
            object.__setattr__(self, name, dict(getattr(self, name)))
        _ids("logit_bias", list(self.logit_bias))
        for bias in self.logit_bias.values():
            if bias != -math.inf:
                _require_number("logit_bias: a bias", bias, _LARGEST)
        for step, token_id in self.forced_ids.items():
            _require_int("forced_ids: a step", step, lowest=0)
            _ids("forced_ids", [token_id])

    def _check_combinations(self) -> None:
        if not isinstance(self.single_block, bool):
            raise InvalidInputError(f"single_block must be True or False, got {self.single_block!r}")
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            raise InvalidInputError(f'early_stopping must be True, False or "never", got {self.early_stopping!r}')
        if self.prompt_overflow not in ("refuse", "cut-left"):
            raise InvalidInputError(f'prompt_overflow must be "refuse" or "cut-left", got {self.prompt_overflow!r}')
        if self.min_new_tokens > self.max_new_tokens:
            raise InvalidInputError(
                f"min_new_tokens {self.min_new_tokens} is more than max_new_tokens {self.max_new_tokens}"
            )
        if self.temperature == 0 and any(getattr(self, name) != idle for name, idle in _SAMPLING.items()):
            names = ", ".join(name for name, idle in _SAMPLING.items() if getattr(self, name) != idle)
            raise InvalidInputError(f"{names}: these choose among samples; give a temperature above 0 with them")
        self._check_constraint()
        if self.num_beams == 1:
            for name in ("length_penalty", "early_stopping"):
                if getattr(self, name) != _DEFAULTS[name]:
                    raise InvalidInputError(f"{name} belongs to beam search; give num_beams above 1 with it")
            if self.n > 1 and self.temperature == 0:
                raise InvalidInputError("n samples of a greedy choice are all the same; give a temperature above 0")
            return
        if self.n > self.num_beams:
            raise InvalidInputError(f"n {self.n} is more than num_beams {self.num_beams}")
        for name in _NOT_WITH_BEAMS:
            if getattr(self, name) != _DEFAULTS[name]:
                raise InvalidInputError(f"{name} does not go with beam search (num_beams {self.num_beams})")

    def _check_constraint(self) -> None:
        if self.constraint is None:
            return
        if not isinstance(self.constraint, Constraint):
            raise InvalidInputError(
                f"constraint must be a compiled grammar, got {type(self.constraint).__name__}; see compile_grammar"
            )
        if self.num_beams > 1:
            raise InvalidInputError(
                f"num_beams {self.num_beams} does not go with a constraint, which beams cannot follow"
            )
        for name in _CUTS:
            if getattr(self, name) != _DEFAULTS[name]:
                raise InvalidInputError(f"{name} does not go with a constraint: it may cut the text before it is whole")


_DEFAULTS: dict[str, object] = {each.name: each.default for each in fields(GenerationParams)}


def merged(params: GenerationParams | None, fields: Mapping[str, Any]) -> GenerationParams:
    """`params` with some fields given by keyword; the defaults where there are none.

    Raises:
        InvalidInputError: a value is out of range.
        TypeError: there is no such field.
    """
    if params is not None and not isinstance(params, GenerationParams):
        raise InvalidInputError(f"params must be GenerationParams, got {type(params).__name__}")
    return replace(params, **fields) if params is not None else GenerationParams(**fields)


def check_ids(params: GenerationParams, vocab_size: int) -> None:
    """Raise InvalidInputError for an id in `params` that no token has; it names the parameter."""
    given: dict[str, Sequence[int]] = {
        "stop_ids": params.stop_ids,
        "suppressed_ids": params.suppressed_ids,
        "logit_bias": list(params.logit_bias),
        "forced_ids": list(params.forced_ids.values()),
        "bad_words_ids": [token_id for word in params.bad_words_ids for token_id in word],
    }
    for name, ids in given.items():
        for token_id in ids:
            if token_id >= vocab_size:
                raise InvalidInputError(f"{name} holds id {token_id}, outside the vocabulary of {vocab_size}")


def _ids(name: str, values: object) -> tuple[int, ...]:
    if not isinstance(values, list | tuple | set | frozenset):
        raise InvalidInputError(f"{name} must be a sequence of ids, got {type(values).__name__}")
    for value in values:
        _require_int(f"{name}: an id", value, lowest=0)
    return tuple(values)


def _require_int(name: str, value: object, *, lowest: int, highest: int = _MOST) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
        raise InvalidInputError(f"{name} must be an integer in {lowest}…{highest}, got {value!r}")


def _require_number(name: str, value: object, largest: float = sys.float_info.max) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= largest:
        limit = "" if largest == sys.float_info.max else f" of at most {largest:g} either way"
        raise InvalidInputError(f"{name} must be a finite number{limit}, got {value!r}")
