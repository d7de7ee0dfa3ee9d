"""Shell completion as bash, zsh and fish ask for it, and what `--version` and `list` show."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from codegen_edge.bundle import Bundle
from codegen_edge.cli import COMMANDS
from codegen_edge.dependencies import installed_version
from codegen_edge.runtimes.registry import RUNTIMES
from tests.cli.running import Run

SHELLS = ("bash", "zsh", "fish")


def completed(shell: str, words: list[str], last: str, folder: Path) -> list[str]:
    """What the program answers when `last` is to be completed behind `words`."""
    line = ["codegen-edge", *words, last]
    asked = {"COMP_WORDS": " ".join(line), "COMP_CWORD": last if shell == "fish" else str(len(line) - 1)}
    environment = os.environ | asked | {"_CODEGEN_EDGE_COMPLETE": f"{shell}_complete"}
    program = [sys.executable, "-c", "from codegen_edge.cli import main; main()"]
    done = subprocess.run(program, capture_output=True, text=True, env=environment, check=True, cwd=folder)
    lines = done.stdout.splitlines()
    if shell == "zsh":  # type, value and help, a line each
        return lines[1::3]
    return [line.partition(",")[2].partition("\t")[0] for line in lines]


@pytest.mark.parametrize("shell", SHELLS)
def test_commands_bundles_and_runtimes_are_completed(shell: str, tiny_bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle.path, tmp_path / "my-bundle")
    (tmp_path / "my-notes").mkdir()
    assert completed(shell, [], "ins", tmp_path) == ["inspect"]
    assert completed(shell, ["generate"], "my-", tmp_path) == ["my-bundle"]
    assert completed(shell, ["generate", "my-bundle", "--runtime"], "", tmp_path) == list(RUNTIMES)
    assert completed(shell, ["generate", "my-bundle", "--runtime"], "st", tmp_path) == ["static-cpu"]


def test_folders_are_the_shells_where_no_bundle_fits(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    environment = os.environ | {
        "COMP_WORDS": "codegen-edge generate mod",
        "COMP_CWORD": "2",
        "_CODEGEN_EDGE_COMPLETE": "bash_complete",
    }
    program = [sys.executable, "-c", "from codegen_edge.cli import main; main()"]
    done = subprocess.run(program, capture_output=True, text=True, env=environment, check=True, cwd=tmp_path)
    assert done.stdout == "dir,mod\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_shells_get_a_script(shell: str) -> None:
    environment = os.environ | {"_CODEGEN_EDGE_COMPLETE": f"{shell}_source"}
    program = [sys.executable, "-c", "from codegen_edge.cli import main; main()"]
    done = subprocess.run(program, capture_output=True, text=True, env=environment, check=True)
    assert "_CODEGEN_EDGE_COMPLETE" in done.stdout
    if (path := shutil.which(shell)) is not None:
        subprocess.run([path, "-n"], input=done.stdout, text=True, check=True)


def test_version_names_the_libraries_that_are_there(run: Run) -> None:
    done = run("--version")
    assert done.code == 0
    first, second = done.stdout.splitlines()
    assert first == f"codegen-edge {installed_version('codegen-edge')}"
    assert f"onnxruntime {installed_version('onnxruntime')}" in second
    assert "None" not in second


def test_list_shows_bundles_and_why_one_cannot_be_opened(run: Run, tiny_bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle.path, tmp_path / "deep" / "down" / "sound")
    cut = tmp_path / "cut"
    shutil.copytree(tiny_bundle.path, cut)
    (cut / "onnx" / "model.onnx_data").write_bytes(b"")
    (tmp_path / ".hidden").mkdir()
    shutil.copytree(tiny_bundle.path, tmp_path / ".hidden" / "bundle")
    done = run("list", tmp_path, "--json")
    assert done.code == 0
    first, second = map(json.loads, done.stdout.splitlines())
    assert (first["path"], second["path"]) == (str(cut), str(tmp_path / "deep" / "down" / "sound"))
    assert "truncated" in first["problem"]
    assert (second["precision"], second["verdict"], second["problem"]) == ("fp32", "not verified", None)
    assert second["size_bytes"] == tiny_bundle.size_bytes
    shown = run("list", tmp_path).stdout
    assert "not verified" in shown
    assert "truncated" in " ".join(shown.split())


def test_list_of_a_folder_without_bundles_says_so(run: Run, tmp_path: Path) -> None:
    done = run("list", tmp_path)
    assert (done.code, done.stdout) == (0, "")
    assert "there is no bundle" in done.error


def test_every_command_can_be_completed(tmp_path: Path) -> None:
    assert set(completed("bash", [], "", tmp_path)) == set(COMMANDS)
