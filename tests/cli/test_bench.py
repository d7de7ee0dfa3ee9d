from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from codegen_edge.bundle import Bundle
from codegen_edge.cli import cli
from codegen_edge.errors import BundleError, InvalidInputError
from codegen_edge.evaluation.speed.kinds import ProductKind
from codegen_edge.evaluation.speed.measurement import MeasuredLimits, Measurement
from codegen_edge.quantization import QuantizeOptions, quantize_bundle
from codegen_edge.workflows import benchmarking

SMALL = ("--prompt-tokens", "16", "--new-tokens", "8", "--rounds", "2", "--threads", "1")
Pretend = Callable[..., None]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["bench", *map(str, arguments)])


def refused(*arguments: object) -> str:
    """The error of a command that must fail."""
    exception = run(*arguments).exception
    assert isinstance(exception, InvalidInputError | BundleError)
    return f"{exception} {exception.hint}".strip()


@pytest.fixture(scope="session")
def int8_bundle(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("bundle") / "a-bundle-with-a-rather-long-name-in-int8"
    return quantize_bundle(tiny_bundle, out, QuantizeOptions(scheme="int8"))[0]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Processes that take a time by the bundle's name, whatever the machine does."""

    def install(**step_s: float) -> None:
        def measure(task: dict[str, Any]) -> Measurement:
            seconds = next((value for name, value in step_s.items() if name in task["bundle"]), 0.02)
            kinds = None if task["kinds"] is None else [ProductKind(**kind) for kind in task["kinds"]]
            limits = None
            if kinds is not None:
                multiplications = {kind.label: 1e11 for kind in kinds}
                limits = MeasuredLimits(read_bytes={"numpy": 2e10}, multiplications=multiplications, buffer_bytes=2**28)
            return Measurement(
                pid=1,
                import_s=0.3,
                open_s=1.2,
                cold_start_s=2.0,
                peak_rss_bytes=int(seconds * 2e10),
                prefill_s=0.4,
                first_token_s=0.41,
                steps_s=(seconds,) * 7,
                limits=limits,
            )

        monkeypatch.setattr(benchmarking, "measure_once", measure)

    return install


def test_a_bundle_is_measured_in_earnest(tiny_bundle: Bundle, tmp_path: Path) -> None:
    json_file, plot_file = tmp_path / "result.json", tmp_path / "speed.svg"
    result = run(tiny_bundle.path, *SMALL, "--json", json_file, "--plot", plot_file)
    assert result.exit_code == 0, result.output
    fields = json.loads(json_file.read_text())
    (bundle,) = fields["bundles"]
    assert len({each["pid"] for each in bundle["rounds"]} | {os.getpid()}) == 3
    assert all(len(each["steps_s"]) == 7 for each in bundle["rounds"])
    assert fields["limits"]["read_bytes"].keys() == {"numpy", "onnxruntime"}
    assert fields["limits"]["multiplications"].keys() == {"fp32"}
    assert bundle["roofline"]["decode_bytes"] > 500_000
    assert fields["verdict"] is None
    assert "limit of memory" in result.output
    ElementTree.fromstring(plot_file.read_text())


def test_the_terminal_gets_80_columns_and_a_reason(tiny_bundle: Bundle, int8_bundle: Bundle, pretend: Pretend) -> None:
    pretend(tiny=0.04, int8=0.02)
    result = run(tiny_bundle.path, int8_bundle.path, *SMALL, "--compare")
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= 80
    words = " ".join(result.stdout.split())
    assert f"decode: {int8_bundle.path.name} best: 2.00× (2.00–2.00) tiny (noise 0.0%)" in words
    assert f"prefill: tiny best: no difference to {int8_bundle.path.name}" in words
    assert f"take {int8_bundle.path.name}: fastest decode" in words
    assert "50.0 (50.0–50.0)" in words
    assert sum("…ong-name-in-int8 " in line for line in result.stdout.splitlines()) == 4  # two tables, two charts
    assert "page cache" in words


def test_without_compare_there_is_no_verdict_but_in_the_json(
    tiny_bundle: Bundle, int8_bundle: Bundle, pretend: Pretend, tmp_path: Path
) -> None:
    pretend(tiny=0.04, int8=0.02)
    result = run(tiny_bundle.path, int8_bundle.path, *SMALL, "--json", tmp_path / "result.json")
    assert "take" not in result.stdout
    verdict = json.loads((tmp_path / "result.json").read_text())["verdict"]
    assert verdict["take"] == int8_bundle.path.name
    assert {each["figure"] for each in verdict["comparisons"]} == {"decode", "prefill", "memory"}


def test_json_to_stdout_is_all_that_is_printed(tiny_bundle: Bundle, pretend: Pretend) -> None:
    pretend()
    fields = json.loads(run(tiny_bundle.path, *SMALL, "--json", "-").stdout)
    assert fields["settings"]["rounds"] == 2
    assert fields["bundles"][0]["label"] == "tiny"


def test_bad_input_ends_in_one_line_before_anything_is_measured(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmarking, "measure_once", lambda task: pytest.fail("a process was started"))
    path = tiny_bundle.path
    assert "threads must be at least 1, got 0" in refused(path, "--threads", "0")
    assert "rounds must be in 2…1000, got 1" in refused(path, "--rounds", "1")
    too_long = refused(path, "--prompt-tokens", "100", "--new-tokens", "29", "--batch", "4")
    assert "129 tokens in each of 4 rows" in too_long
    assert "holds 128" in too_long
    assert "make it first" in refused(path, *SMALL, "--plot", tmp_path / "nowhere" / "a.svg")
    assert "is a folder" in refused(path, *SMALL, "--plot", tmp_path)
    assert "make it first" in refused(path, *SMALL, "--json", tmp_path / "nowhere" / "a.json")
    assert "leave out --compare" in refused(path, *SMALL, "--compare")
    assert "given twice" in refused(path, path, *SMALL)


def test_an_output_that_the_system_refuses_is_refused_beforehand(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert "cannot be written: Permission denied" in refused(tiny_bundle.path, *SMALL, "--plot", tmp_path / "a.svg")
    assert not list(tmp_path.iterdir())


def test_a_bundle_of_another_runtime_is_refused(static_bundle: Bundle) -> None:
    assert "runtime cpu needs target ort" in refused(static_bundle.path, *SMALL)
