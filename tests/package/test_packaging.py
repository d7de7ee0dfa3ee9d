from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

from codegen_edge import __version__

REPOSITORY = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
ROOMS = ("exporter", "runtimes", "generation", "quantization", "evaluation", "server", "checkpoints")


def test_every_package_of_the_tree_ships() -> None:
    folders = [path.parent.relative_to(REPOSITORY) for path in REPOSITORY.rglob("__init__.py")]
    inside = {".".join(("codegen_edge", *folder.parts)) for folder in folders if folder.parts[0] in ROOMS}
    # The rooms' links inside the package are for editors; its own folders ship.
    own = {".".join(folder.parts[1:]) for folder in folders if folder.parts[0] == "src"}
    own = {name for name in own if name.split(".")[1:2] not in [[room] for room in ROOMS]}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == inside | own


def test_a_clones_root_does_not_shadow_the_installed_package() -> None:
    """`import codegen_edge` there found the source folder, which lacks the rooms."""
    assert not (REPOSITORY / "codegen_edge").exists()
    done = subprocess.run(
        [sys.executable, "-c", "import codegen_edge.runtimes, codegen_edge; print(codegen_edge.__version__)"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, __version__), done.stderr


def test_version_stands_in_one_word() -> None:
    assert PROJECT["project"]["version"] == __version__


def test_base_needs_no_torch_and_every_extra_is_there() -> None:
    base = {requirement.split(">")[0] for requirement in PROJECT["project"]["dependencies"]}
    assert base == {"numpy", "click", "rich", "tokenizers", "packaging"}
    assert {"cpu", "cuda", "export", "tensorrt", "optimum", "dev"} <= PROJECT["project"]["optional-dependencies"].keys()


def test_every_file_of_the_shipped_checkpoint_ships() -> None:
    room = REPOSITORY / "checkpoints"
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["codegen_edge.checkpoints"]
    matched = {path for pattern in patterns for path in room.glob(pattern)}
    data = {path for path in room.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert data == matched
    assert len(data) > 10
