"""Every file of examples/ runs, and does what its docstring says."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from codegen_edge.bundle import Bundle, open_bundle
from codegen_edge.generation.model import load_model
from codegen_edge.runtimes import RUNTIMES
from tests.server.dialects.recorded import listening

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.py"))

Load = Callable[[str], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Import an example by its name; what it registers is forgotten afterwards."""
    monkeypatch.setattr(RUNTIMES, "_homes", dict(RUNTIMES._homes))

    def load_example(name: str) -> ModuleType:
        (path,) = (each for each in EXAMPLES if each.stem == name)
        spec = importlib.util.spec_from_file_location(f"example_{name}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return load_example


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_docstring_shows_the_command_and_the_file_has_a_test(path: Path) -> None:
    assert f"\n    python examples/{path.name} my-bundle" in path.read_text()
    assert f'load("{path.stem}")' in Path(__file__).read_text()


def test_export_and_generate_writes_a_bundle_that_is_equal(
    load: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = load("export_and_generate")
    example.main(str(tmp_path / "bundle"))
    bundle = open_bundle(tmp_path / "bundle")
    assert bundle.manifest.parity is not None
    assert bundle.manifest.parity["verdict"] == "equal"
    told, *generated = capsys.readouterr().out.split("\n--- ")
    assert told.strip().endswith("equal to the reference: True")
    texts = [each.partition("\n")[2] for each in generated]
    assert len(texts) == 4
    assert all(text.startswith(example.PROMPT) for text in texts)
    assert texts[0] == texts[-1]  # streamed pieces join to what comes at once
    assert texts[1] != texts[2]  # two seeds


def test_chat_session_undoes_forks_and_reads_only_what_is_new(
    load: Load, trained_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "chat.session"
    load("chat_session").main(str(trained_bundle.path), str(saved))
    told = capsys.readouterr().out
    *turns, third = re.split(r"^--- .*\n", told, flags=re.MULTILINE)[1:]
    first, second, undone, again, fork = turns
    assert undone.strip() == first.strip()
    assert second == again.partition("reading token")[0]  # the same seed from the same past
    assert fork.startswith(first.rstrip("\n"))
    assert second.startswith(first.rstrip("\n"))
    assert fork.partition("reading token")[0] != again
    with load_model(trained_bundle.path, check="size") as model:
        text = model.load_session(saved).text
    assert third.startswith(text + "\nclass ")
    (read,) = re.findall(r"^reading token (\d+) of \1$", told, re.MULTILINE)
    assert int(read) < 10


def test_batch_with_cancellation_ends_one_row_and_finishes_the_others(
    load: Load, trained_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    example = load("batch_with_cancellation")
    example.main(str(trained_bundle.path))
    told, *texts = re.split(r"^--- row \d+\n", capsys.readouterr().out, flags=re.MULTILINE)
    left = {int(row): (reason, int(count)) for row, reason, count in re.findall(r"row (\d) leaves: (\w+), (\d+)", told)}
    assert left[example.CANCELLED_ROW] == ("cancelled", example.CANCELLED_AFTER)
    assert {reason for row, (reason, _) in left.items() if row != example.CANCELLED_ROW} == {"length"}
    joined = [[int(row) for row in rows.split(",")] for rows in re.findall(r"rows of the batch: \[(.*)\]", told)]
    assert len(joined) == len(texts) == len(example.PROMPTS)
    assert max(map(len, joined)) == example.SLOTS
    with load_model(trained_bundle.path, check="size") as model:
        for row, (prompt, text) in enumerate(zip(example.PROMPTS, texts, strict=True)):
            alone = prompt + model.generate(prompt, max_new_tokens=left[row][1]).text
            assert text.rstrip() == alone.rstrip()


@pytest.mark.long
def test_quantize_to_a_budget_stays_within_it(
    load: Load,
    tiny_bundle: Bundle,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("codegen_edge.workflows.budget.SENSITIVITY_TOKENS", 256)  # for speed; the budget is measured
    out = tmp_path / "int4"
    load("quantize_to_a_budget").main(str(tiny_bundle.path), str(out), "0.05")
    told = capsys.readouterr().out
    found = re.search(r"^budget 0\.05 nats, reached ([\d.e-]+)$", told, re.MULTILINE)
    assert found is not None
    assert float(found[1]) <= 0.05
    kept = re.findall(r"^  (\S+): alone at 4 bits it costs", told, re.MULTILINE)
    assert f"{len(kept)} of " in told
    quantized = open_bundle(out)
    assert quantized.manifest.precision == "int4"
    assert quantized.size_bytes < tiny_bundle.size_bytes
    assert told.splitlines()[-1].startswith("perplexity ")


def test_own_runtime_repeats_its_prompt_and_does_what_the_built_in_ones_do(
    load: Load, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    example = load("own_runtime")
    example.main(str(tiny_bundle.path))
    text = capsys.readouterr().out.removesuffix("\n")
    assert text.startswith(example.PROMPT + " names:\n    print(name)\n")
    with load_model(tiny_bundle.path, check="size", runtime="ngram") as model:
        prompts = [example.PROMPT, "a = 1\nb = 2\na ="]
        together = [each.token_ids for each in model.generate(prompts, max_new_tokens=8)]
        assert together == [model.generate(prompt, max_new_tokens=8).token_ids for prompt in prompts]
        drafted = model.generate(prompts[0], max_new_tokens=8, draft="prompt-lookup")
        assert drafted.token_ids == together[0]
        session = model.session()
        session.append(prompts[0])
        fork = session.fork()
        assert session.generate(max_new_tokens=8).token_ids == fork.generate(max_new_tokens=8).token_ids == together[0]


def test_transformers_usage_prints_what_our_own_generation_prints(
    load: Load, trained_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    example = load("transformers_usage")
    example.main(str(trained_bundle.path))
    greedy, beams, streamed, piped = re.split(r"^--- .*\n", capsys.readouterr().out, flags=re.MULTILINE)[1:]
    with load_model(trained_bundle.path, check="size") as model:
        expected = example.PROMPT + model.generate(example.PROMPT, max_new_tokens=24).text
        found = [model.generate(prompt, num_beams=3, max_new_tokens=16).text for prompt in example.BATCH]
    assert greedy == streamed == piped == expected + "\n"
    assert beams == "".join(f"{prompt}{text}\n" for prompt, text in zip(example.BATCH, found, strict=True))


@pytest.mark.interop
@pytest.mark.filterwarnings("ignore")
def test_ray_serve_prints_a_completion(load: Load, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    example = load("ray_serve")
    pytest.importorskip("ray", reason="Ray is not installed")
    example.main(str(tiny_bundle.path))
    assert example.PROMPT in capsys.readouterr().out


@pytest.mark.interop
@pytest.mark.filterwarnings("ignore")
def test_langchain_client_prints_the_completion_twice(
    load: Load, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    example = load("langchain_client")
    pytest.importorskip("langchain_openai", reason="LangChain is not installed: it needs an environment of its own")
    with load_model(tiny_bundle.path) as model, listening(model) as url:
        example.main("tiny", f"{url}/v1")
        expected = model.generate(example.PROMPT, max_new_tokens=32).text
    assert capsys.readouterr().out == f"{example.PROMPT}{expected}\n{expected}\n"
