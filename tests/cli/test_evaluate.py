"""`codegen-edge evaluate …` as it is typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from codegen_edge.bundle import Bundle
from codegen_edge.cli import cli
from codegen_edge.errors import CodegenEdgeError, InvalidInputError

Run = Callable[..., Result]

PROBLEMS = [
    {
        "task_id": f"Small/{number}",
        "prompt": f'def add_{number}(a, b):\n    """The sum and {number}."""\n',
        "canonical_solution": f"    return a + b + {number}\n",
        "test": f"def check(f):\n    assert f(1, 2) == {3 + number}\n    assert f(0, 0) == {number}\n",
        "entry_point": f"add_{number}",
    }
    for number in range(3)
]
TALKS = [
    {
        "id": "1",
        "name": "Assign",
        "description": "a value",
        "category": "math",
        "prompts": ["Assign {A} to x.", "Print x."],
        "inputs": [{"A": 1}, {"A": 2}],
        "outputs": [1, 2],
        "max_gen_length": 8,
    }
]


def run(*arguments: Any) -> Result:
    return CliRunner(catch_exceptions=True).invoke(cli, ["evaluate", *map(str, arguments)])


def succeed(*arguments: Any) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.stdout


def refused(*arguments: Any) -> str:
    result = run(*arguments)
    assert isinstance(result.exception, InvalidInputError), result.output + repr(result.exception)
    return f"{result.exception} {result.exception.hint}"


def lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return lines(tmp_path / "problems.jsonl", PROBLEMS)


@pytest.fixture
def has_sandbox() -> None:
    from codegen_edge.errors import SandboxUnavailableError
    from codegen_edge.evaluation.sandbox import Sandbox

    try:
        Sandbox().close()
    except SandboxUnavailableError as exc:
        pytest.skip(str(exc))


def test_bundle_alone_is_measured_as_before(tiny_bundle: Bundle, tmp_path: Path) -> None:
    text = tmp_path / "a.py"
    text.write_text("def f():\n    return 1\n")
    before = json.loads(succeed(tiny_bundle.path, "--text", text, "--json"))
    assert before == json.loads(succeed("metrics", tiny_bundle.path, "--text", text, "--json"))
    assert before == json.loads(succeed("perplexity", tiny_bundle.path, "--text", text, "--json"))


def test_agreement_of_a_bundle_with_itself_is_whole(tiny_bundle: Bundle, tmp_path: Path) -> None:
    text = tmp_path / "a.py"
    text.write_text("def f():\n    return 1\n" * 4)
    found = json.loads(
        succeed("agreement", tiny_bundle.path, "--reference", tiny_bundle.path, "--text", text, "--json")
    )
    assert found["damage"]["top1_agreement"] == 1
    assert found["agreement"]["equal_share"] == 1
    assert found["agreement"]["equal_tokens"] == [found["agreement"]["new_tokens"]]


def test_every_command_has_help_with_a_line_to_copy() -> None:
    help_text = succeed("--help")
    for name in ("humaneval", "mtpb", "stdlib", "perplexity", "agreement", "metrics", "report"):
        assert name in help_text
        assert f"codegen-edge evaluate {name}" in succeed(name, "--help")


@pytest.mark.usefixtures("has_sandbox")
@pytest.mark.parametrize("form", ["completion", "solution"])
def test_samples_of_others_are_executed(form: str, data: Path, tmp_path: Path) -> None:
    written = [
        {
            "task_id": problem["task_id"],
            form: (problem["prompt"] if form == "solution" else "") + solution,
        }
        for problem in PROBLEMS
        for solution in (problem["canonical_solution"], "    return 3\n")
    ]
    samples = lines(tmp_path / "samples.jsonl", written)
    arguments = ("humaneval", "--data", data, "--samples", samples, "--allow-execution", "--out", tmp_path / "out")
    found = json.loads(succeed(*arguments, "--json"))
    assert found["pass@1"] == 0.5
    assert (found["num_problems"], found["num_samples"]) == (3, 6)
    assert found["kinds"] == {"assertion": 3, "passed": 3}
    again = json.loads(succeed(*arguments, "--json"))
    assert again == found
    shown = succeed(*arguments)
    assert "pass@1 50.0% [" in shown
    assert "3 of 6 samples passed; failed: assertion 3" in shown
    for name, field in (("human-eval.jsonl", "completion"), ("evalplus.jsonl", "solution")):
        first = json.loads((tmp_path / "out" / name).read_text().splitlines()[0])
        assert first["task_id"] == "Small/0"
        assert first[field].endswith(PROBLEMS[0]["canonical_solution"])


@pytest.mark.usefixtures("has_sandbox")
def test_bundle_writes_samples_that_are_executed(data: Path, tmp_path: Path, tiny_bundle: Bundle) -> None:
    out = tmp_path / "out"
    found = json.loads(
        succeed(
            *("humaneval", tiny_bundle.path, "--data", data, "--out", out, "--allow-execution", "--json"),
            *("-n", 3, "-k", "1,3,9", "--max-new-tokens", 8, "--limit", 2, "--strict", "--workers", 1),
        )
    )
    assert list(found["scores"]) == ["pass@1", "pass@3"]
    assert (found["num_problems"], found["num_samples"]) == (2, 6)
    configuration = json.loads((out / "configuration.json").read_text())["configuration"]
    assert (configuration["temperature"], configuration["top_p"], configuration["strict"]) == (0.2, 0.95, True)
    page = tmp_path / "report.html"
    succeed("report", out, "--out", page)
    assert "Small/1" in page.read_text()


@pytest.mark.usefixtures("has_sandbox")
@pytest.mark.parametrize("option", [(), ("--single-turn",), ("--compat",)], ids=str)
def test_conversations_are_executed(option: tuple[str, ...], tmp_path: Path, tiny_bundle: Bundle) -> None:
    data = lines(tmp_path / "talks.jsonl", TALKS)
    arguments = ("mtpb", tiny_bundle.path, "--data", data, "--out", tmp_path / "out", "--allow-execution", "--json")
    found = json.loads(succeed(*arguments, *option))
    assert (found["num_problems"], found["num_samples"]) == (2, 2)
    assert "pass rate" in found["scores"]


@pytest.mark.usefixtures("has_sandbox")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--preset", "codegen-paper"), {"temperature": 0.2, "top_p": 0.95, "seed": 42}),
        (("--preset", "codegen-paper", "--seed", 3, "--top-p", 0.5), {"temperature": 0.2, "top_p": 0.5, "seed": 3}),
        (("--preset", "codegen-paper", "--temperature", 0), {"temperature": 0, "top_p": 1, "seed": 42}),
        (("--temperature", 0.7), {"temperature": 0.7, "top_p": 0.95, "seed": 0}),
        ((), {"temperature": 0, "top_p": 1, "seed": 0}),
    ],
    ids=str,
)
def test_explicit_options_go_before_the_preset(
    options: tuple[Any, ...], expected: dict[str, float], tmp_path: Path, tiny_bundle: Bundle
) -> None:
    data = lines(tmp_path / "talks.jsonl", TALKS)
    succeed("mtpb", tiny_bundle.path, "--data", data, "--out", tmp_path / "out", "--allow-execution", *options)
    configuration = json.loads((tmp_path / "out" / "configuration.json").read_text())["configuration"]
    assert {name: configuration[name] for name in expected} == expected


def test_stdlib_needs_no_permission(tmp_path: Path, tiny_bundle: Bundle) -> None:
    found = json.loads(succeed("stdlib", tiny_bundle.path, "--out", tmp_path / "out", "--limit", 4, "--json"))
    assert found["num_samples"] == 4
    assert "exact match" in found


def test_nothing_is_executed_without_permission(data: Path, tmp_path: Path, tiny_bundle: Bundle) -> None:
    said = refused("humaneval", tiny_bundle.path, "--data", data, "--out", tmp_path / "out")
    assert "--allow-execution" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give a BUNDLE"),
        (("BUNDLE", "--samples", "SAMPLES"), "do not go with BUNDLE"),
        (("--samples", "SAMPLES", "--temperature", "0.5"), "do not go with --temperature"),
        (("--samples", "SAMPLES", "-n", "2"), "do not go with --num-samples"),
        (("--samples", "SAMPLES", "--runtime", "cpu"), "do not go with --runtime"),
        (("--samples", "SAMPLES", "--max-new-tokens", "9"), "do not go with --max-new-tokens"),
        (("--samples", "SAMPLES", "--no-exact-steps"), "do not go with"),
        (("--samples", "SAMPLES", "-k", "2,3"), "pass@k needs a k in 1…1"),
        (("BUNDLE", "-k", "10"), "pass@k needs a k in 1…1"),
        (("BUNDLE", "--ray-workers", "2"), "--ray-workers goes with --ray"),
        (("BUNDLE", "-k", "1,x"), "-k must be whole numbers"),
        (("BUNDLE", "-k", "0"), "-k must be at least 1"),
        (("BUNDLE", "-n", "2", "--temperature", "0"), "are all the same"),
        (("BUNDLE", "--temperature", "nan"), "temperature"),
    ],
    ids=str,
)
def test_wrong_options_are_one_line(
    arguments: tuple[str, ...], said: str, data: Path, tmp_path: Path, tiny_bundle: Bundle
) -> None:
    samples = lines(
        tmp_path / "samples.jsonl", [{"task_id": each["task_id"], "completion": "    pass\n"} for each in PROBLEMS]
    )
    names = {"BUNDLE": tiny_bundle.path, "SAMPLES": samples}
    given = [names.get(argument, argument) for argument in arguments]
    message = refused("humaneval", *given, "--data", data, "--allow-execution", "--out", tmp_path / "out")
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize("content", ["{", "[]", '{"task_id": "Small/0"}', ""], ids=str)
def test_malformed_data_is_one_line(content: str, tmp_path: Path, tiny_bundle: Bundle) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(content)
    for task in ("humaneval", "mtpb"):
        message = refused(task, tiny_bundle.path, "--data", data, "--allow-execution", "--out", tmp_path / "out")
        assert "data.jsonl" in message
        assert "\n" not in message


@pytest.mark.usefixtures("has_sandbox")
def test_problem_whose_own_solution_fails_is_named(tmp_path: Path) -> None:
    wrong = {**PROBLEMS[1], "canonical_solution": "    return 0\n"}
    data = lines(tmp_path / "problems.jsonl", [PROBLEMS[0], wrong])
    written = [{"task_id": each["task_id"], "completion": each["canonical_solution"]} for each in PROBLEMS[:2]]
    samples = lines(tmp_path / "samples.jsonl", written)
    arguments = ("humaneval", "--data", data, "--samples", samples, "--allow-execution", "--out", tmp_path / "out")
    found = json.loads(succeed(*arguments, "--json"))
    assert (found["pass@1"], found["without_reference"]) == (1, ["Small/1"])
    assert "1 problems whose own solution fails here (Small/1)" in succeed(*arguments).replace("\n", " ")


def test_exact_steps_are_refused_by_a_runtime_without_them(static_bundle: Bundle, tmp_path: Path) -> None:
    arguments = ("stdlib", static_bundle.path, "--runtime", "static-cpu", "--out", tmp_path / "out", "--limit", 1)
    assert isinstance(run(*arguments, "--exact-steps").exception, CodegenEdgeError)
    assert "exact match" in json.loads(succeed(*arguments[:-3], tmp_path / "other", "--limit", 1, "--json"))


def test_samples_that_lack_a_problem_are_refused(data: Path, tmp_path: Path) -> None:
    samples = lines(tmp_path / "samples.jsonl", [{"task_id": "Small/0", "completion": "    pass\n"}])
    arguments = ("--data", data, "--samples", samples, "--allow-execution", "--out", tmp_path / "out")
    assert "no sample of 2 of 3 problems: Small/1, Small/2" in refused("humaneval", *arguments)
