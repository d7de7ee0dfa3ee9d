"""What a new user types wrong ends in one line, the right exit code, no traceback and nothing on stdout.

The rows are in `bad_input.txt`; to cover a new option, add its wrong values there.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from codegen_edge.bundle import Bundle
from codegen_edge.quantization import QuantizeOptions, quantize_bundle
from tests.cli.running import Run

TABLE = Path(__file__).with_name("bad_input.txt")
FEWEST_ROWS = 310
LONGEST_LINE = 600  # characters: about seven lines of a terminal


@dataclass(frozen=True)
class Row:
    code: int
    words: str
    pattern: str


def read_rows() -> list[Row]:
    rows = []
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            code, words, pattern = line.split(" | ", maxsplit=2)
            rows.append(Row(int(code), words, pattern))
    return rows


ROWS = read_rows()


@pytest.fixture(scope="module")
def places(
    tiny_bundle: Bundle,
    static_bundle: Bundle,
    feature_bundle: Bundle,
    tiny_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    """What the names in braces stand for."""
    home = tmp_path_factory.mktemp("bad-input")
    (home / "file.txt").write_text("x = 1\n" * 20)
    (home / "binary.bin").write_bytes(b"abc\xff\x00" * 20)
    (home / "empty.txt").write_text("")
    (home / "archive.tar.gz").write_text("no archive\n")
    (home / "folder").mkdir()
    (home / "folder" / "mine.txt").write_text("mine\n")
    named = {
        "bundle": tiny_bundle.path,
        "static": static_bundle.path,
        "features": feature_bundle.path,
        "checkpoint": tiny_checkpoint,
        "int8": quantize_bundle(tiny_bundle, home / "int8", QuantizeOptions(scheme="int8"))[0].path,
        "altered": altered_copy(tiny_bundle, home / "altered", "onnx/model.onnx_data"),
        "altered-graph": altered_copy(tiny_bundle, home / "altered-graph", "onnx/model.onnx"),
        "file": home / "file.txt",
        "binary": home / "binary.bin",
        "empty": home / "empty.txt",
        "archive": home / "archive.tar.gz",
        "folder": home / "folder",
        "none": home / "none",
    }
    return {name: str(path) for name, path in named.items()} | {"long": "é" * 200}


def altered_copy(bundle: Bundle, out: Path, name: str) -> Path:
    """A copy of the bundle, some bytes of one file of which are others."""
    shutil.copytree(bundle.path, out)
    content = bytearray((out / name).read_bytes())
    content[1000:1016] = bytes(each ^ 255 for each in content[1000:1016])
    (out / name).write_bytes(content)
    return out


def filled(words: str, places: dict[str, str]) -> list[str]:
    return [re.sub(r"\{([\w-]+)\}", lambda match: places[match[1]], word, count=0) for word in shlex.split(words)]


def test_the_table_has_enough_rows_and_none_twice() -> None:
    assert len(ROWS) >= FEWEST_ROWS
    assert len({row.words for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.words)
def test_bad_input_is_one_line(
    row: Row, run: Run, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = places | {"out": str(tmp_path / "out")}
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(Path(places["file"]).parent)
    done = run(*filled(row.words, places))
    pattern = re.sub(r"\{([\w-]+)\}", lambda match: re.escape(places[match[1]]), row.pattern)
    assert done.code == row.code, done
    assert re.search(pattern, done.error, re.IGNORECASE), done.error
    assert done.error.startswith("error: ")
    assert len(done.error) <= LONGEST_LINE
    assert done.stdout == ""
    assert not re.search(r"/proc/self|\.tmp-[0-9a-f]{8}|\.codegen-edge-|np\.load|Errno", done.error), done.error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "code"),
    [("inspect {none}", 2), ("generate {bundle} --prompt a --max-new-tokens 0", 2), ("--frobnicate", 2)],
)
def test_a_process_ends_as_the_table_says(words: str, code: int, places: dict[str, str]) -> None:
    command = [sys.executable, "-m", "codegen_edge", *filled(words, places)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (code, "", 1)


def test_closed_stdin_is_one_line(places: dict[str, str]) -> None:
    command = [sys.executable, "-m", "codegen_edge", "generate", places["bundle"], "--prompt-file", "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=lambda: os.close(0))
    assert done.returncode == 2
    assert (
        done.stderr
        == "error: the prompt is to come from stdin, which is closed; give it with --prompt [invalid-input-error]\n"
    )
