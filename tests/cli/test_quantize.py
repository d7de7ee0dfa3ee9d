from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from codegen_edge.bundle import Bundle, open_bundle
from codegen_edge.cli import cli
from codegen_edge.errors import BundleError, InvalidInputError


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def int4(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    folder = tmp_path_factory.mktemp("quantize")
    (folder / "text.py").write_text("def f(x):\n    return x\n" * 40)
    out = folder / "int4"
    result = run(
        "quantize", tiny_bundle.path, out, "--scheme", "int4", "--calibration", folder / "text.py",
        "--measure-tokens", 300,
    )  # fmt: skip
    return result, out


def test_prints_matrices_and_damage_and_writes_the_report(int4: tuple[Result, Path]) -> None:
    result, out = int4
    assert result.exit_code == 0, result.output
    assert "KL" in result.stdout
    assert "fc_out" in result.stderr
    report = json.loads((out / "quantization_report.json").read_text())
    assert report["damage"]["num_tokens"] >= 300
    assert open_bundle(out).manifest.precision == "int4"


def test_inspect_shows_the_report(int4: tuple[Result, Path]) -> None:
    result = run("inspect", int4[1])
    assert result.exit_code == 0, result.output
    assert "gptq" in result.stdout
    assert "top-1" in result.stdout


def test_quantized_bundle_generates_and_is_not_verified(int4: tuple[Result, Path], tiny_checkpoint: Path) -> None:
    assert run("generate", int4[1], "--prompt", "def f(", "--max-new-tokens", 4).exit_code == 0
    outcome = run("verify", int4[1], "--reference", tiny_checkpoint)
    assert isinstance(outcome.exception, BundleError)
    assert "quantization_report.json" in str(outcome.exception)


@pytest.mark.parametrize(("content", "message"), [(b" \n", "is empty"), (b"\xff", "is not UTF-8"), (None, "cannot be")])
def test_bad_calibration_is_one_line(content: bytes | None, message: str, tiny_bundle: Bundle, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "text.py").write_bytes(content)
    outcome = run(
        "quantize", tiny_bundle.path, tmp_path / "out", "--scheme", "int4", "--calibration", tmp_path / "text.py"
    )
    assert isinstance(outcome.exception, InvalidInputError)
    assert message in str(outcome.exception)
    assert not (tmp_path / "out").exists()


def test_unknown_scheme_and_existing_folder_are_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    outcome = run("quantize", tiny_bundle.path, tmp_path / "out", "--scheme", "int2")
    assert isinstance(outcome.exception, InvalidInputError)
    assert "--scheme must be one of int8, int4" in str(outcome.exception)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    outcome = run("quantize", tiny_bundle.path, tmp_path / "out", "--scheme", "int8")
    assert isinstance(outcome.exception, InvalidInputError)
    assert (tmp_path / "out" / "mine").exists()


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_export_in_another_precision_measures_against_the_reference(
    precision: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    outcome = run("export", tiny_checkpoint, tmp_path / "out", "--precision", precision)
    assert outcome.exit_code == 0, outcome.output
    bundle = open_bundle(tmp_path / "out")
    assert bundle.manifest.precision == precision
    assert bundle.manifest.parity is None
    damage = json.loads((bundle.path / "quantization_report.json").read_text())["damage"]
    assert damage["top1_agreement"] > 0.9
    assert f"top-1 {damage['top1_agreement']:.2%}" in outcome.stdout


def test_export_of_features_in_another_precision_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    outcome = run("export", tiny_checkpoint, tmp_path / "out", "--precision", "int8", "--task", "feature-extraction")
    assert isinstance(outcome.exception, InvalidInputError)
    assert "in fp32 only" in str(outcome.exception)
    assert not (tmp_path / "out").exists()


def test_budget_is_chosen_and_told(tiny_bundle: Bundle, tmp_path: Path) -> None:
    arguments = ["quantize", tiny_bundle.path, tmp_path / "out", "--scheme", "int4", "--method", "search"]
    outcome = run(*arguments, "--budget-kl", 0.05, "--measure-tokens", 300)
    assert outcome.exit_code == 0, outcome.output
    assert "kept at 8 bits" in outcome.stderr
    assert "5.0e-02 allowed" in " ".join(outcome.stderr.split())
    refused = run(*arguments[:2], tmp_path / "other", *arguments[3:], "--budget-kl", 0.05, "--measure-tokens", 0)
    assert isinstance(refused.exception, InvalidInputError)


def test_short_calibration_text_is_warned_of(int4: tuple[Result, Path]) -> None:
    stderr = " ".join(int4[0].stderr.split())
    assert "warning: the calibration text has" in stderr
    assert "where plain rounding costs" in stderr  # tests/test_docs.py holds the figures to their committed result


def test_json_is_the_report_and_all_tokens_can_be_measured(tiny_bundle: Bundle, tmp_path: Path) -> None:
    outcome = run("quantize", tiny_bundle.path, tmp_path / "out", "--scheme", "int8", "--measure-tokens", 0, "--json")
    fields = json.loads(outcome.stdout)
    assert (fields["report"]["scheme"], fields["report"]["damage"]) == ("int8", None)
    assert fields["size_bytes"] == open_bundle(tmp_path / "out").size_bytes
    asked: list[int | None] = []

    def take(*_: object, max_tokens: int | None, **__: object) -> None:
        asked.append(max_tokens)
        raise InvalidInputError("that is all that is asked here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("codegen_edge.workflows.quantizing.measure_damage", take)
        for tokens in ((), ("--measure-tokens", "all")):
            run("quantize", tiny_bundle.path, tmp_path / "other", "--scheme", "int8", *tokens)
    assert asked == [8192, None]


def test_tables_are_whole_at_80_columns(int4: tuple[Result, Path]) -> None:
    for text in (run("inspect", int4[1]).stdout, int4[0].stderr):
        assert "…" not in text
        # Sentences and paths go on as long as they are.
        lines = [line for line in text.splitlines() if "warning" not in line and str(int4[1].parent) not in line]
        assert max(map(len, lines)) <= 80
