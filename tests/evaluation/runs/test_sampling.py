"""Samples depend on their item, their number and the settings: on no batch, no neighbour and no kept cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

import codegen_edge
from codegen_edge import Model
from codegen_edge.bundle import Bundle
from codegen_edge.errors import InvalidInputError
from codegen_edge.evaluation.runs import ModelSampler, SampleLine, Settings, Work
from codegen_edge.generation.params import GenerationParams
from tests.evaluation.runs.tasks import EndTask, TalkTask

GREEDY = Settings()
SAMPLED = Settings(num_samples=5, temperature=0.8, top_p=0.95, seed=3)


@pytest.fixture(scope="module", params=["fp32", "int8", "int4"])
def model(request: Any, tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    bundle = tiny_bundle
    if request.param != "fp32":
        out = tmp_path_factory.mktemp("sampling") / request.param
        bundle = codegen_edge.quantize(
            tiny_bundle, out, scheme=request.param, method="round", measure_tokens=0, block_size=16
        ).bundle
    with codegen_edge.load_model(bundle.path, exact_steps=True, threads=1) as loaded:
        yield loaded


def written(sampler: ModelSampler, work: Sequence[Work]) -> dict[tuple[str, int], SampleLine]:
    lines = list(sampler.sample(work))
    by_key = {line.key: line for line in lines}
    assert len(by_key) == len(lines) == sum(each.num_samples for each in work)
    return by_key


def all_work(task: EndTask, settings: Settings) -> list[Work]:
    return [Work(item=item, num_samples=settings.num_samples) for item in task.items()]


@pytest.mark.parametrize("settings", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_samples_are_the_same_for_every_batch(model: Model, settings: Settings) -> None:
    task = EndTask()
    found = [
        written(ModelSampler(model, settings, task.generation_fields(), batch=batch), all_work(task, settings))
        for batch in (1, 4, 8)
    ]
    assert found[0] == found[1] == found[2]
    assert len({line.completions for line in found[0].values()}) > len(task.items()) // 2


def test_greedy_samples_are_what_the_model_generates(model: Model) -> None:
    task = EndTask()
    lines = written(ModelSampler(model, GREEDY, task.generation_fields()), all_work(task, GREEDY))
    for item in task.items():
        alone = model.generate(item.turns[0].text, max_new_tokens=task.max_new_tokens, stop=("\n\n",))
        line = lines[item.task_id, 0]
        assert line.completions == (alone.text,)
        assert (line.num_tokens, line.finish_reason) == (len(alone.token_ids), alone.finish_reason)
        assert line.prompt_tokens == alone.prompt_tokens


def test_some_samples_alone_are_the_same(model: Model) -> None:
    task = EndTask()
    sampler = ModelSampler(model, SAMPLED, task.generation_fields(), batch=3)
    everything = written(sampler, all_work(task, SAMPLED))
    item = task.items()[2]
    some = written(sampler, [Work(item=item, first_sample=3, num_samples=2)])
    assert some == {key: everything[key] for key in some}
    numbers = {everything[item.task_id, number].completions for number in range(5)}
    assert len(numbers) > 1


def test_other_seed_gives_other_samples(model: Model) -> None:
    task = EndTask()
    first, second = (
        written(ModelSampler(model, settings, task.generation_fields()), all_work(task, settings))
        for settings in (SAMPLED, Settings(num_samples=5, temperature=0.8, top_p=0.95, seed=4))
    )
    assert first != second


@pytest.mark.parametrize("settings", [GREEDY, Settings(num_samples=2, temperature=0.8)], ids=["greedy", "sampled"])
def test_conversation_is_the_same_with_and_without_kept_caches(model: Model, settings: Settings) -> None:
    task = TalkTask(max_new_tokens=8)
    kept, anew = (
        written(
            ModelSampler(model, settings, task.generation_fields(), keep_caches=is_kept), all_work(task, settings)[:3]
        )
        for is_kept in (True, False)
    )
    assert kept == anew
    assert all(line.completions is not None and len(line.completions) == 3 for line in kept.values())


def test_conversation_reads_what_a_whole_text_would_be(model: Model) -> None:
    task = TalkTask(max_new_tokens=8)
    item = task.items()[0]
    (line,) = ModelSampler(model, GREEDY, task.generation_fields()).sample([Work(item=item)])
    assert line.completions is not None
    context = ""
    for turn, completion in zip(item.turns, line.completions, strict=True):
        context += turn.text
        alone = model.generate(context, GenerationParams(max_new_tokens=turn.max_new_tokens, stop=("\n\n",)))
        assert completion == alone.text
        context += completion + turn.after


def test_prompt_that_does_not_fit_is_a_sample_without_completions(model: Model) -> None:
    long = "x = 1\n" * 200
    for task in (EndTask(("short", long)), TalkTask((long,))):
        settings = Settings(num_samples=2, temperature=0.5)
        lines = written(ModelSampler(model, settings, task.generation_fields()), all_work(task, settings))
        for (task_id, _), line in lines.items():
            is_long = long in task.prompts[int(task_id[-1])]
            assert (line.completions is None) == is_long
            assert (line.finish_reason == "context") >= is_long
            assert not is_long or line.prompt_tokens > 128


@pytest.mark.parametrize(
    "fields",
    [{"num_samples": 0}, {"num_samples": 2}, {"temperature": -1}, {"temperature": float("nan")}, {"seed": -1}],
    ids=str,
)
def test_settings_out_of_range_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        Settings(**fields)


def test_item_seeds_differ() -> None:
    seeds = {
        Settings(temperature=1, seed=seed).item_seed(name, sample, turn)
        for seed in range(3)
        for name in ("a/1", "a/2")
        for sample in (None, 0, 1)
        for turn in range(2)
    }
    assert len(seeds) == 3 * 2 * 3 * 2
