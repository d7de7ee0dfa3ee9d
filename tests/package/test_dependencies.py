from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import compatibility
from codegen_edge import dependencies
from codegen_edge.dependencies import (
    disable_telemetry,
    incompatible_as_error,
    install_command,
    package_versions,
    proved_versions,
    require_versions,
    supported_range,
)
from codegen_edge.errors import IncompatibleVersionError, InvalidInputError
from codegen_edge.runtimes.backends.reference import ReferenceRuntime
from codegen_edge.runtimes.backends.scripted import ScriptedRuntime

REPOSITORY = Path(__file__).resolve().parents[2]


def test_ranges_are_those_of_pyproject() -> None:
    for package, bound in compatibility.requirements().items():
        assert f">={bound}" in str(supported_range(package))
    assert not str(supported_range("a-package-that-nobody-needs"))


def test_version_outside_of_its_range_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    require_versions("torch", "transformers", "onnxruntime", "not-installed-at-all")
    monkeypatch.setattr(dependencies, "installed_version", lambda _: "4.57.6")
    with pytest.raises(
        IncompatibleVersionError, match=r'transformers 4\.57\.6 is installed.*pip install "transformers'
    ):
        require_versions("transformers")


def test_foreign_errors_become_one_line_with_versions_and_ours_stay() -> None:
    message = r"tracing failed with torch \d.*KeyError.*Proved are torch"
    with pytest.raises(IncompatibleVersionError, match=message), incompatible_as_error("tracing", "torch"):
        raise KeyError("layer_past\nand more")
    for error in (InvalidInputError("ours"), FileNotFoundError("theirs")):
        with pytest.raises(type(error)), incompatible_as_error("tracing", "torch"):
            raise error


def test_commands_to_install_name_what_can_be_installed_today() -> None:
    command = install_command("export", "cpu")
    assert re.fullmatch(r'pip install ("[\w-]+[><=\d.,]+" )+\(the extras \[export,cpu\] of codegen-edge\)', command)
    assert "codegen-edge[" not in command
    assert install_command("tensorrt").startswith('pip install "tensorrt-cu13<12,>=10.15"')
    for page in (REPOSITORY / "README.md", REPOSITORY / "docs" / "gpu.md"):
        assert 'pip install "codegen-edge' not in page.read_text(), f"{page.name}: it is on no package index"
    readme = (REPOSITORY / "README.md").read_text()
    assert 'pip install ".[export,cpu]"' in readme


def test_proved_versions_and_their_page_are_those_of_the_result() -> None:
    runs = compatibility.load_runs()
    assert proved_versions() == compatibility.proved(runs)
    page = compatibility.PAGE.read_text()
    assert compatibility.render(page, runs) == page
    assert {entry["label"] for entry in runs} >= {"oldest", "newest"}


def test_lower_bounds_are_the_versions_of_the_oldest_run() -> None:
    """A bound that is written down and was not run is a guess."""
    (oldest,) = [entry for entry in compatibility.load_runs() if entry["label"] == "oldest"]
    for package, bound in compatibility.requirements().items():
        found = compatibility.version_key(oldest["versions"][package])
        assert found[: bound.count(".") + 1] == compatibility.version_key(bound), package


def test_telemetry_is_off_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    disable_telemetry()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    disable_telemetry()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"


def test_a_session_writes_nothing_into_the_home_of_its_user(tmp_path: Path) -> None:
    """onnxruntime 1.32 leaves a database below the cache folder within a second, were its telemetry on."""
    home = tmp_path / "home"
    home.mkdir()
    program = "import time; from codegen_edge.ort_session import load_onnxruntime; load_onnxruntime(); time.sleep(2)"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    for variable in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        environment.pop(variable, None)
    subprocess.run([sys.executable, "-c", program], env=environment | {"HOME": str(home)}, check=True)
    assert list(home.rglob("*")) == []


def test_a_model_whose_cache_has_another_name_is_no_reference() -> None:
    """transformers would take the unknown name into its **kwargs and compute without a past."""

    class Renamed:
        def forward(self, input_ids: object, kv_store: object = None, **_: object) -> None:
            pytest.fail("it was called")

    config = ScriptedRuntime(lambda _: np.zeros(8, np.float32), vocab_size=8).config
    with pytest.raises(IncompatibleVersionError, match="takes its cache by another name"):
        ReferenceRuntime(Renamed(), config)


def test_versions_name_the_package_that_holds_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"onnxruntime-gpu": "1.31.1", "numpy": "2.4.6"}
    monkeypatch.setattr("codegen_edge.dependencies.installed_version", installed.get)
    assert package_versions("numpy", "onnxruntime", "torch") == {"numpy": "2.4.6", "onnxruntime-gpu": "1.31.1"}
    installed["onnxruntime"] = "1.32.0"
    assert package_versions("onnxruntime") == {"onnxruntime": "1.32.0"}
