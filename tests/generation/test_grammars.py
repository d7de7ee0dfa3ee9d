"""Grammars on llguidance: masks by brute force, every language, what is refused, and hostile ones."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codegen_edge.errors import InvalidInputError, RuntimeUnavailableError
from codegen_edge.generation import GenerationLoop, GenerationParams
from codegen_edge.generation.constraints import Grammar, compile_grammar, compiler, trial_process
from codegen_edge.generation.constraints.trial_process import TrialProcess
from codegen_edge.tokenizer import Tokenizer
from tests.generation.grammars import CHECKPOINT, PERSON, brute_force_mask, compiled, noise_runtime, tokenizer

NUM_STEPS = 60


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar.json_schema(PERSON),
        Grammar.any_json(),
        Grammar.regex("([a-z]+ = [0-9]{1,4}\n)+"),
        Grammar.choice(["yes", "no", "not at all"]),
        Grammar.python_expression(),
        Grammar.of_text('root ::= item (", " item)*\nitem ::= [a-z]+ | "(" root ")"'),
    ],
    ids=lambda grammar: grammar.kind,
)
def test_greedy_takes_the_likeliest_of_the_tokens_that_brute_force_allows(grammar: Grammar) -> None:
    runtime, constraint = noise_runtime(), compiled(grammar)
    end = runtime.config.eos_token_id
    params = GenerationParams(max_new_tokens=NUM_STEPS, constraint=constraint)
    events = list(GenerationLoop(runtime, [[1, 2, 3]], params, num_allowed_ids=tokenizer().vocab_size))
    follower, ids = constraint.fork(), [1, 2, 3]
    for event in events:
        allowed = brute_force_mask(follower)
        assert (follower.mask() == allowed).all()
        allowed[end] = follower.is_accepting
        scores = np.where(allowed, runtime._script(tuple(ids))[: len(allowed)], -np.inf)
        assert event.token_id == int(scores.argmax()), f"step {event.step}"
        ids.append(event.token_id)
        if event.token_id != end:
            follower.advance(event.token_id)
    assert events[-1].finish_reason in ("stop", "end_of_text", "length")
    assert (events[-1].finish_reason == "stop") == (follower.is_accepting and not follower.mask().any())


def test_a_token_that_is_not_allowed_changes_nothing() -> None:
    constraint = compiled(Grammar.regex("ab+")).fork()
    mask = constraint.mask()
    for token_id in (tokenizer().encode("b")[0], tokenizer().end_of_text_id, tokenizer().vocab_size + 7):
        with pytest.raises(InvalidInputError, match=f"does not allow token {token_id}"):
            constraint.advance(token_id or 0)
    assert (constraint.mask() == mask).all()


def test_rolled_back_and_forked_constraints_are_as_new_ones() -> None:
    start = compiled(Grammar.json_schema(PERSON))
    ids = tokenizer().encode('{"name": "Ada", "age": 36}')
    constraint, masks = start.fork(), []
    for token_id in ids:
        masks.append((constraint.mask(), constraint.is_accepting))
        constraint.advance(token_id)
    assert constraint.is_accepting
    assert not constraint.mask().any()
    for length in range(len(ids) - 1, -1, -1):
        forked = constraint.fork()
        constraint.rollback(1)
        assert (constraint.mask() == masks[length][0]).all()
        assert constraint.is_accepting == masks[length][1]
        forked.rollback(1)
        forked.advance(ids[length])
    assert (start.mask() == masks[0][0]).all()


@pytest.mark.parametrize(
    ("grammar", "fitting", "other"),
    [
        (Grammar.json_schema(PERSON), '{"name": "é", "age": 0}', '{"age": 0}'),
        (Grammar.json_schema(json.dumps(PERSON)), '{\n    "name": "",\n    "age": 130\n}', '{"name": "", "age": 131}'),
        (Grammar.json_schema(True), "null", "nul"),
        (Grammar.any_json(), '[1, {"a": [true]}]', "1"),
        (Grammar.json_object(), '{"a": 1e5}', "[]"),
        (Grammar.regex(r"\d{3}-\w+"), "123-ab", "12-ab"),
        (Grammar.choice(['a"b', "new\nline", "/é€/"]), "new\nline", "a"),
        (Grammar.choice(["<|endoftext|>"]), "", "a"),
        (Grammar.of_text('start: "a" item+\nitem: /[0-9]/ | "x"'), "a0x9", "a"),
        (Grammar.of_text('root ::= "a" item+\nitem ::= [0-9] | "x"'), "a0x9", "a"),
        (Grammar.single_line(), "x = 1  # one\n", "a\nb\n"),
        (Grammar.python_expression(), " [x for x in y if not x is None]\n", "x = 1\n"),
        (Grammar.python_expression(), "f(1, *a, key=lambda: {'a': b[1:, ::2]} ** -2)\n".replace("*a, ", ""), "1if x\n"),
    ],
)
def test_texts_that_fit_are_taken_and_others_are_not(grammar: Grammar, fitting: str, other: str) -> None:
    def fits(text: str) -> bool:
        constraint = compiled(grammar).fork()
        try:
            for token_id in tokenizer().encode(text):
                constraint.advance(token_id)
        except InvalidInputError:
            return False
        return constraint.is_accepting

    assert fits(fitting) or not fitting
    assert not fits(other)


def test_text_that_reads_like_the_end_of_text_is_text() -> None:
    constraint = compiled(Grammar.choice(["a<|endoftext|>b"])).fork()
    ids = []
    while not constraint.is_accepting:
        ids.append(int(constraint.mask().argmax()))
        constraint.advance(ids[-1])
    assert tokenizer().end_of_text_id not in ids
    assert tokenizer().decode(ids) == "a<|endoftext|>b"


@pytest.mark.parametrize("seed", range(40))
def test_what_the_expression_grammar_makes_is_python(seed: int) -> None:
    random, constraint, ids = np.random.default_rng(seed), compiled(Grammar.python_expression()).fork(), list[int]()
    (line_end,) = tokenizer().encode("\n")
    first_bytes = np.array([tokenizer().token_bytes(each)[0] for each in range(tokenizer().vocab_size)])
    while True:
        allowed = np.flatnonzero(constraint.mask())
        if not len(allowed) or len(ids) > 200:
            break
        is_over = line_end in allowed and len(ids) > random.integers(1, 30)
        # A byte first, then a token that begins with it: by tokens nearly all would be names.
        begun = allowed[first_bytes[allowed] == random.choice(np.unique(first_bytes[allowed]))]
        ids.append(line_end if is_over else int(random.choice(begun)))
        constraint.advance(ids[-1])
    if constraint.is_accepting:
        ast.parse(tokenizer().decode(ids).strip(), mode="eval")


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        *(
            ({name: value}, name)
            for name, value in {
                "uniqueItems": True,
                "not": {},
                "if": {},
                "contains": {},
                "propertyNames": {},
                "dependentRequired": {},
                "unevaluatedProperties": False,
                "$dynamicRef": "#",
                "nullable": True,
                "minLenght": 2,
                "x-guidance": {"lenient": True},
            }.items()
        ),
        ({"properties": {"a": {"items": [{"anyOf": [{"uniqueItems": True}]}]}}}, "uniqueItems"),
        ({"$defs": {"a": {"not": {}}}}, "not"),
        ({"type": "object", "minProperties": 2}, "minProperties 2"),
        ({"type": "string", "format": "colour"}, "Unknown format: colour"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"$ref": "http://example.com/a"}, "http://example.com/a"),
        ({"$ref": "#"}, "no text fits it"),
        ({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}, "circular references"),
        ({"enum": []}, "anyOf is empty"),
        ({"type": "strng"}, "strng"),
        (False, "false"),
        ('{"a": 1, "a": 2}', "twice"),
        ("[1]", "must hold a JSON object"),
        ({"const": float("nan")}, "cannot be written as JSON"),
    ],
)
def test_a_schema_that_cannot_be_enforced_is_refused_by_name(schema: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match="json_schema") as refused:
        compiled(Grammar.json_schema(schema))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_names_and_values_are_no_keywords() -> None:
    schema = {"properties": {"uniqueItems": {"const": {"not": 1}}, "if": {"default": {"contains": 1}}}, "x-order": 1}
    compiled(Grammar.json_schema(schema))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Grammar.choice([]), "a choice needs"),
        (lambda: Grammar.choice(["a", ""]), "a choice needs"),
        (lambda: Grammar.choice("ab"), "a choice needs"),
        (lambda: Grammar.regex(" "), "the regex is empty"),
        (lambda: Grammar.regex("a" * (64 * 1024 + 1)), "at most 65,536"),
        (lambda: Grammar.choice(["\ud800"]), "not valid Unicode"),
        (lambda: Grammar.of_text("hello"), "must be Lark"),
        (lambda: Grammar.of_text('{"grammars": [{"json_schema": {}}]}'), "must be Lark"),
        (lambda: compiled(Grammar.regex("(?<=a)b")), "look-around"),
        (lambda: compiled(Grammar.of_text("start: other")), "the lark cannot be used"),
        (lambda: compiled(Grammar.of_text("root ::= other")), "the gbnf cannot be used"),
        (lambda: compiled(Grammar.of_text("root ::= " + "(" * 10_000)), "nested too deeply"),
    ],
)
def test_a_malformed_description_is_one_line(make: Any, message: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        make()
    assert message in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert len(str(refused.value)) < 500


HOSTILE = {
    "nested quantifiers": Grammar.regex("((((a{1,100}){1,100}){1,100}){1,100})"),
    "a{10000}{10000}": Grammar.regex("(a{10000}){10000}"),
    "the same behind other text": Grammar.regex("[a-z]{3}(a{10000}){10000}"),
    "the same in a schema": Grammar.json_schema({"type": "string", "pattern": "^x(a{10000}){10000}$"}),
    "distances": Grammar.regex(".*a.{0,400}b.{0,400}c.{0,400}d"),
    "parentheses": Grammar.regex("(" * 20_000 + "a" + ")" * 20_000),
    "factors": Grammar.json_schema(
        {"allOf": [{"anyOf": [{"required": [f"{a}{b}"]} for b in "abcdef"]} for a in "ghijklmn"]}
    ),
    "multiples": Grammar.json_schema({"type": "integer", "multipleOf": 999_999_937}),
    "ambiguity": Grammar.of_text('start: a a a a a a a a\na: start | "x"? | a a'),
    "terminals": Grammar.of_text(
        "start: A0\n" + "\n".join(f"A{i}: A{i + 1} A{i + 1}" for i in range(40)) + '\nA40: "x"'
    ),
    "repetitions": Grammar.of_text('start: ((("a" "b"){1000}){1000}){1000}'),
}


@pytest.mark.parametrize("grammar", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_grammar_is_refused_or_followed_within_bounds(grammar: Grammar) -> None:
    before, random = resident_mib(), np.random.default_rng(0)
    longest = 0.0
    try:
        constraint = compiled(grammar).fork()
        for _ in range(40):
            started_at = time.thread_time()
            allowed = np.flatnonzero(constraint.mask())
            longest = max(longest, time.thread_time() - started_at)
            if not len(allowed):
                break
            constraint.advance(int(random.choice(allowed)))
    except InvalidInputError:
        pass
    assert longest < 2.0
    assert resident_mib() - before < 100


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_a_grammar_that_takes_too_long_ends_its_process_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_process, "MOST_SECONDS", 0.5)
    tokens = [bytes([each]) for each in range(256)]
    trial = TrialProcess(tokens, [])
    doubling = "root ::= a0\n" + "\n".join(f"a{i} ::= a{i + 1} a{i + 1}" for i in range(2000)) + '\na2000 ::= "x"'
    try:
        with pytest.raises(InvalidInputError, match="the gbnf takes more than 0.5 s or 200 MB"):
            trial.compile("gbnf", doubling)
        assert trial._process._process is None
        assert trial.compile("regex", "a+")
    finally:
        trial.close()


def test_compiled_grammars_are_kept_but_no_tokenizer_is() -> None:
    own = Tokenizer(CHECKPOINT / "tokenizer.json")
    grammar = Grammar.regex("ab?")
    first = compile_grammar(grammar, own)
    assert compile_grammar(Grammar.regex("ab?"), own) is first
    process = compiler._compilers[own]._trial._process._process
    assert process is not None
    del own
    assert process.poll() is not None
    assert first.fork().mask().any()


def test_missing_library_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(RuntimeUnavailableError, match="a grammar needs llguidance: pip install"):
        compile_grammar(Grammar.any_json(), Tokenizer(CHECKPOINT / "tokenizer.json"))


def test_the_generation_imports_no_grammar_library() -> None:
    program = "import sys, codegen_edge.generation.model; sys.exit('llguidance' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
