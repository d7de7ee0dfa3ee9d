"""Constraints in the loop: whole texts only, in batches, samples, sessions, drafts and slots alike."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_edge import load_model
from codegen_edge.bundle import Bundle
from codegen_edge.errors import InvalidInputError
from codegen_edge.generation import GenerationLoop, GenerationParams, Request, RowOutput
from codegen_edge.generation.constraints import Constraint, FollowedConstraint, Grammar, compile_grammar
from codegen_edge.generation.model import Model
from codegen_edge.generation.sampling import TokenChooser
from codegen_edge.generation.slots import RaggedBatch, SlicedBatch
from codegen_edge.generation.speculation import DraftModel, PromptLookup, RowsSpeculator, Speculator
from codegen_edge.runtimes.backends.scripted import ScriptedRuntime
from tests.generation.grammars import PERSON, FixedTexts, compiled, noise, noise_runtime, tokenizer

PROMPT = [5, 6, 7]


class RaggedRuntime(ScriptedRuntime):
    free_drafts = 1
    runs_ragged = True


def texts(params: GenerationParams, *prompts: list[int], **options: Any) -> list[tuple[str, str | None]]:
    """Text and finish reason of every row."""
    runtime = options.pop("runtime", None) or noise_runtime()
    loop = GenerationLoop(runtime, list(prompts) or [PROMPT], params, num_allowed_ids=tokenizer().vocab_size, **options)
    return finished(loop, params, len(loop.request.prompts) * params.n)


def finished(events: Any, params: GenerationParams, num_rows: int) -> list[tuple[str, str | None]]:
    end = tokenizer().end_of_text_id
    assert end is not None
    outputs = [RowOutput(tokenizer(), params, end, 1) for _ in range(num_rows)]
    for event in events:
        outputs[event.row].add(event)
    return [(output.text, output.finish_reason) for output in outputs]


def person_params(**fields: Any) -> GenerationParams:
    return GenerationParams(**{"max_new_tokens": 120, "constraint": compiled(Grammar.json_schema(PERSON)), **fields})


def test_row_ends_where_the_text_is_whole() -> None:
    ((text, reason),) = texts(person_params())
    assert reason == "stop"
    jsonschema.validate(json.loads(text), PERSON)


def test_a_text_that_is_cut_by_its_length_says_so() -> None:
    ((_, reason),) = texts(person_params(max_new_tokens=4))
    assert reason == "length"


def test_end_of_text_is_chosen_only_where_the_text_may_end() -> None:
    end = tokenizer().end_of_text_id
    constraint = compiled(Grammar.regex("[a-z]{3,5}"))

    def wants_to_end(sequence: tuple[int, ...]) -> Any:
        logits = noise(sequence)
        logits[end] = 1000
        return logits

    runtime = ScriptedRuntime(wants_to_end, vocab_size=len(noise((1,))), eos_token_id=end or 0)
    ((text, reason),) = texts(GenerationParams(constraint=constraint), runtime=runtime)
    assert (len(text) >= 3, reason) == (True, "end_of_text")
    letter = tokenizer().encode("a")[0]
    ((text, reason),) = texts(GenerationParams(constraint=constraint, stop_ids=(letter,), max_new_tokens=3))
    assert "a" not in text or reason == "stop_id"


def test_log_probabilities_are_those_of_the_whole_distribution() -> None:
    plain = TokenChooser(GenerationParams(top_logprobs=3), tokenizer().vocab_size)
    held = TokenChooser(person_params(top_logprobs=3), tokenizer().vocab_size)
    logits = noise((1, 2, 3))
    chosen, free = held.choose(logits), plain.choose(logits)
    assert tokenizer().token_bytes(chosen.token_id) == b"{"
    assert chosen.top_logprobs == free.top_logprobs
    assert chosen.logprob is not None
    assert free.logprob is not None
    assert chosen.logprob < free.logprob


def test_rows_of_a_batch_get_what_they_get_alone() -> None:
    prompts = [[1, 2], [3], [4, 5, 6], [7, 8]]
    for params in (person_params(), person_params(temperature=0.9, seed=4)):
        alone = [texts(params, prompt)[0] for prompt in prompts]
        assert texts(params, *prompts) == alone
        assert len(set(alone)) > 1


def test_samples_follow_forks_of_their_own() -> None:
    params = person_params(temperature=1.2, seed=2, n=4)
    found = texts(params)
    assert len(set(found)) == 4
    for text, reason in found:
        assert reason == "stop"
        jsonschema.validate(json.loads(text), PERSON)


@pytest.mark.parametrize("drafter", [lambda: PromptLookup(shortest=1), lambda: DraftModel(noise_runtime())])
def test_drafts_change_nothing_and_are_taken_back(drafter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Speculator, "_count", lambda self: 4)
    prompt = tokenizer().encode('{"name": "a", "age": 1} {"name": "b", "age": 12} {"name": "b", ')
    for params in (person_params(), person_params(temperature=0.9, seed=4)):
        speculator = Speculator(drafter(), num_free=4)
        assert texts(params, prompt, speculator=speculator) == texts(params, prompt)
        assert speculator.num_drafted > speculator.num_accepted > 0 or isinstance(speculator._drafter, DraftModel)
        assert speculator.num_accepted > 0


def test_drafts_of_several_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RowsSpeculator, "_counts", lambda self, found, acceptances: list(found))
    prompts = [tokenizer().encode('{"name": "a", "age": 1}, {"name": ' * each) for each in (1, 2, 3)]
    assert texts(person_params(), *prompts, runtime=noise_runtime(RaggedRuntime)) == texts(person_params(), *prompts)


@pytest.mark.parametrize("kind", [RaggedBatch, SlicedBatch])
def test_slots_give_what_a_row_gets_alone(kind: type[RaggedBatch] | type[SlicedBatch]) -> None:
    runtime = noise_runtime(RaggedRuntime)
    batch = kind(runtime, slots=3, num_allowed_ids=tokenizer().vocab_size)
    params = [person_params(), GenerationParams(max_new_tokens=20), person_params(temperature=0.5, seed=1)]
    rows = {}
    for each in params:
        request = Request.of([PROMPT], each, runtime.config, tokenizer().vocab_size)
        rows[batch.admit(request)[0]] = each
    events = []
    while batch.rows:
        events += list(batch.step())
    for row, each in rows.items():
        mine = [event for event in events if event.row == row]
        assert [event.token_id for event in mine] == [
            event.token_id
            for event in GenerationLoop(noise_runtime(), [PROMPT], each, num_allowed_ids=tokenizer().vocab_size)
        ]


def test_the_constraint_that_was_given_stays_as_it_was() -> None:
    constraint = FixedTexts([(3, 4), (3, 5, 6)], 10)
    chooser = TokenChooser(GenerationParams(constraint=constraint), 10, end_ids=(0,))
    assert chooser.choose(np.arange(10, dtype=np.float32), [3]).token_id == 5
    assert constraint.taken == []


@given(st.lists(st.lists(st.sampled_from([3, 4, 5, 6]), max_size=4), max_size=12))
def test_a_followed_constraint_answers_for_any_ids_in_any_order(asked: list[list[int]]) -> None:
    sequences = [(3, 4, 5), (3, 4, 6, 6), (4, 4), (5,), (3, 4)]
    followed = FollowedConstraint(FixedTexts(sequences, 8), 2, (0, 9))
    for new in asked:
        starts = [each for each in sequences if list(each[: len(new)]) == new]
        following = {each[len(new)] for each in starts if len(each) > len(new)}
        is_whole = tuple(new) in sequences
        if not starts:
            with pytest.raises(AssertionError):
                followed.allowed([1, 1, *new], 10)
            followed = FollowedConstraint(FixedTexts(sequences, 8), 2, (0, 9))
            continue
        expected = following | ({0, 9} if is_whole else set())
        assert set(np.flatnonzero(followed.allowed([1, 1, *new], 10))) == expected
        assert followed.is_complete([1, 1, *new]) == (is_whole and not following)


def test_each_token_is_taken_once() -> None:
    constraint = FixedTexts([(3,) * 20], 10)
    followed = FollowedConstraint(constraint, 0, (0,))
    for length in range(20):
        followed.allowed([3] * length, 10)
        followed.is_complete([3] * length)
    inner = followed._constraint
    assert isinstance(inner, FixedTexts)
    assert inner.num_advanced == 19


def test_rules_that_leave_nothing_of_what_is_allowed_are_an_error() -> None:
    (brace,) = tokenizer().encode("{")
    with pytest.raises(InvalidInputError, match="the rules and the constraint together forbid every id at step 0"):
        texts(person_params(suppressed_ids=(brace,)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_beams": 2}, "num_beams 2 does not go with a constraint"),
        ({"stop": ("a",)}, "stop does not go with a constraint"),
        ({"truncate_before": ("a",)}, "truncate_before does not go with a constraint"),
        ({"single_block": True}, "single_block does not go with a constraint"),
    ],
)
def test_what_does_not_go_with_a_constraint_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        person_params(**fields)


def test_something_that_is_no_constraint_is_refused() -> None:
    given: Any = Grammar.any_json()
    with pytest.raises(InvalidInputError, match="constraint must be a compiled grammar, got Grammar"):
        GenerationParams(constraint=given)
    assert isinstance(compiled(Grammar.any_json()), Constraint)


@pytest.fixture(scope="module")
def model(tiny_bundle: Bundle) -> Iterator[Model]:
    with load_model(tiny_bundle.path) as opened:
        yield opened


def test_a_model_streams_and_its_session_goes_on(model: Model) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "maxProperties": 1}
    constraint = compile_grammar(Grammar.json_schema(schema), model.tokenizer)
    params = GenerationParams(max_new_tokens=30, constraint=constraint)
    pieces = list(model.stream("person = ", params))
    completion = model.generate("person = ", params)
    assert "".join(piece.text for piece in pieces) == completion.text
    assert completion.finish_reason == "stop"
    jsonschema.validate(json.loads(completion.text), schema)
    with pytest.raises(InvalidInputError, match="suffix does not go with a constraint"):
        model.generate("a", params, suffix="b\n")

    session = model.session()
    session.append("person = ")
    assert session.generate(params).text == completion.text
    session.append("\nother = ")
    other = session.generate(params)
    jsonschema.validate(json.loads(other.text), schema)
    assert session.text == f"person = {completion.text}\nother = {other.text}"
